"""Access file: bearer tokens, and quotas of namespaces.

The file is TOML::

    [[tokens]]
    name = "laptop"
    namespace = "alice"
    sha256 = "0f3a..."                  # of the token, which itself is written nowhere
    expires = 2027-01-01T00:00:00Z      # may be left out

    [namespaces.alice]                  # "*" stands for those that are not named
    max_sessions = 10
    max_bytes = 4294967296
    max_requests_in_flight = 32
    weight = 2                          # share beside those of other namespaces

A token is 256 random bits, so a plain hash of it cannot be searched for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from optserve_server.rpc.authentication.secret_files import check_not_world_readable
from optserve_server.sessions.namespaces import EVERY, Quota

PREFIX = "optserve_"
"""What tokens begin with, so that scanners for leaked secrets know them."""

_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class AccessError(Exception):
    """The file is wrong; the message names it and what is wrong."""


@dataclass(frozen=True)
class Token:
    """Properties of a token.

    Attributes:
        name: who bears it.
        namespace: where its bearer belongs.
        sha256: the hash of the token, in hexadecimal.
        expires: end of its validity; None if it does not expire.
    """

    name: str
    namespace: str
    sha256: str
    expires: datetime | None = None

    def is_valid(self) -> bool:
        """Whether it has not expired."""
        return self.expires is None or datetime.now(UTC) < self.expires


@dataclass(frozen=True)
class Access:
    """Content of the access file: tokens by hash, and quotas by namespace."""

    tokens: Mapping[str, Token] = dataclasses.field(default_factory=dict)
    quotas: Mapping[str, Quota] = dataclasses.field(default_factory=dict)


def hash_token(token: str) -> str:
    """The hash that a token is filed under."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_access_file(path: Path, *, allow_world_readable: bool = False) -> Access:
    """Reads the file.

    Args:
        path: the file.
        allow_world_readable: whether every user may be able to read it.

    Raises:
        AccessError: it cannot be read, or something in it is wrong.
    """
    try:
        if not allow_world_readable:
            check_not_world_readable(path)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AccessError(f"cannot read the tokens in {path}: {error}") from None
    try:
        _check_keys(content, {"tokens", "namespaces"}, "the file")
        tokens = [_parse_token(entry) for entry in content.get("tokens", [])]
        quotas = {name: _parse_quota(name, table) for name, table in content.get("namespaces", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise AccessError(f"wrong entry in {path}: {error}") from None
    return Access({token.sha256: token for token in tokens}, quotas)


def add_token(path: Path, name: str, namespace: str, days: float | None = None) -> str:
    """Makes a token, files its hash, and returns the token, which is kept nowhere.

    Args:
        path: the file; made when there is none.
        name: who bears it.
        namespace: where its bearer belongs.
        days: after how many it expires; None for never.

    Raises:
        AccessError: the name or the namespace is malformed, or the file cannot be read.
        OSError: it cannot be written.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    lines = [f'name = "{name}"', f'namespace = "{namespace}"', f'sha256 = "{hash_token(token)}"']
    if days is not None:
        expires = datetime.now(UTC) + timedelta(days=days)
        lines.append(f"expires = {expires.isoformat(timespec='seconds')}")
    if not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(name):
        raise AccessError(
            "a namespace has 1 to 63 characters of a-z, 0-9 and '-', a name of letters, digits and ._@-"
        )
    before = ""
    if path.exists():
        read_access_file(path, allow_world_readable=True)
        before = path.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
    _write_atomically(path, before + "\n".join(["[[tokens]]", *lines]) + "\n")
    return token


def _write_atomically(path: Path, text: str) -> None:
    """Written beside and renamed, so that no server reads half of it; for its owner's eyes."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _parse_token(entry: Mapping[str, Any]) -> Token:
    _check_keys(entry, {"name", "namespace", "sha256", "expires"}, "a token")
    for key, form in (("namespace", _NAMESPACE), ("sha256", _SHA256)):
        value = entry.get(key)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(f"a token's {key} is {value!r}, which is none")
    expires = entry.get("expires")
    if expires is not None and not (isinstance(expires, datetime) and expires.tzinfo):
        raise ValueError(f"a token's expires is {expires!r}, but must be a time with its offset")
    return Token(str(entry.get("name", "")), entry["namespace"], entry["sha256"], expires)


def _parse_quota(name: str, table: Mapping[str, Any]) -> Quota:
    if name != EVERY and not _NAMESPACE.fullmatch(name):
        raise ValueError(f"{name!r} is no namespace")
    _check_keys(table, {field.name for field in dataclasses.fields(Quota)}, f"namespace {name}")
    for key, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{key} of namespace {name} is {value!r}, but must be a whole number")
    if table.get("weight") == 0:
        raise ValueError(f"weight of namespace {name} is 0, but must be at least 1")
    return Quota(**table)


def _check_keys(table: Mapping[str, Any], known: set[str], owner: str) -> None:
    unknown = table.keys() - known
    if unknown:
        raise ValueError(f"{owner} has an unknown key {min(unknown)!r}")
