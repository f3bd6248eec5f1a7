"""Format and identity of a data directory, which its files name.

There is one format number for everything in a directory: it grows with every change of any file. A server
reads all formats from `OLDEST_FORMAT` to `FORMAT`, and refuses a newer one before it has changed anything.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

FORMAT = 4
"""Format that this server writes."""

OLDEST_FORMAT = 3
"""First format that was released."""

BACKUP = "BACKUP"
"""Name of the file that describes a backup; a directory in use has none."""

_VERSION = re.compile(r"optserve data (\d{1,9})\n(?:([0-9a-f]{32}) ([0-9a-f]{16})\n)?", re.ASCII)


class DirectoryError(RuntimeError):
    """The data directory cannot be used; the message names the file, the cause and what to do."""


@dataclass(frozen=True)
class BackupFacts:
    """Description of a backup.

    Attributes:
        directory: identity of the data directory that was copied, and of the copy.
        moment: when the directory was as it is in the backup, in ISO 8601 with microseconds.
        sessions: how many sessions it has.
        ends: bytes of the files of which the backup has a part, by their paths from the root.
        is_complete: whether all files are there, durably.
    """

    directory: str
    moment: str
    sessions: int
    ends: Mapping[str, int] = field(default_factory=dict)
    is_complete: bool = False

    def to_json(self) -> bytes:
        """The content of the file BACKUP."""
        return json.dumps(vars(self), indent=1).encode() + b"\n"


def read_backup_facts(root: Path) -> BackupFacts | None:
    """What the file BACKUP of a directory says; None if there is none, or if it is damaged."""
    try:
        return BackupFacts(**json.loads((root / BACKUP).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def make_identity() -> str:
    """The identity of a new directory: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def version_text(identity: str) -> str:
    """The content of the file VERSION."""
    return f"optserve data {FORMAT}\n{identity} {_check(FORMAT, identity)}\n"


def parse_version(path: Path, text: str) -> str:
    """The identity in a file VERSION.

    Raises:
        DirectoryError: it is of a format that this server does not read, or damaged.
    """
    found = _VERSION.match(text)
    if found is not None:
        check_format(path, int(found[1]))
        if found[2] and found[3] == _check(int(found[1]), found[2]) and found.end() == len(text):
            return found[2]
    raise DirectoryError(f"{path} is damaged: restore it from a backup")


def check_format(path: Path, number: int) -> None:
    """Refuses a file of a format that this server does not read.

    Raises:
        DirectoryError: it is newer, or from before the first release.
    """
    if number > FORMAT:
        raise DirectoryError(
            f"{path} has format {number}, which is newer than format {FORMAT} of this server; nothing was"
            " changed: start the newer server, or restore a backup"
        )
    if number < OLDEST_FORMAT:
        raise DirectoryError(
            f"{path} has format {number}, but the first that was released is {OLDEST_FORMAT}"
        )


def check_identity(path: Path, found: str, directory: str) -> None:
    """Refuses a file of another directory.

    Raises:
        DirectoryError: it is one.
    """
    if found != directory:
        raise DirectoryError(
            f"{path} belongs to data directory {found}, but this is {directory}: put the right file there"
        )


def _check(number: int, identity: str) -> str:
    return xxhash.xxh3_64_hexdigest(f"{number} {identity}".encode())
