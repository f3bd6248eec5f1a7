"""Checks of what a server needs: a function for each area of ``optserve-server check``."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from optserve_server import app
from optserve_server.arrays.backend_selection import select_backend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.commands.data_directory import check_data_directory
from optserve_server.config import METRICS_PORT, ConfigError, Settings
from optserve_server.resources.memory import memory_limit
from optserve_server.rpc.authentication.tokens import AccessError, read_access_file
from optserve_server.rpc.transport.certificate_chain import verify_chain
from optserve_server.rpc.transport.tls import WARNING_PERIOD
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.store import Limits
from optserve_server.storage.directory_format import DirectoryError

MIN_DESCRIPTORS = 4096
"""File descriptors below which a server that many clients share may run out of them."""

MIN_FREE_BYTES = 16 << 20
"""Free bytes of the disk below which a server cannot work."""

MIN_FREE_INODES = 1000
"""The same of files."""

_MIB = 1 << 20


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Attributes:
        area: one of `optserve_server.commands.check.AREAS`.
        status: ok; warning: the server would start; failed: it would not, or would lack what the settings
            ask for; skipped: the settings do not ask for it.
        text: what was found.
        details: single findings, one a line.
    """

    area: str
    status: str
    text: str
    details: tuple[str, ...] = ()


Found = Iterator[tuple[str, str]]
"""Status and text of each check of an area."""


def check_start(settings: Settings, areas: Sequence[str]) -> list[CheckResult]:
    """Checks areas; changes nothing but this process' limit of file descriptors.

    Args:
        settings: the server's.
        areas: some of `optserve_server.commands.check.AREAS`.
    """
    app.raise_descriptor_limit()
    results = []
    for area in areas:
        if area == "data":
            results.append(_check_data(settings))
            continue
        try:
            found = list(_CHECKS[area](settings))
        except (ConfigError, RuntimeError, OSError, ValueError) as error:
            found = [("failed", str(error))]
        results += [CheckResult(area, status, text) for status, text in found]
    return results


def _check_settings(settings: Settings) -> Found:
    app.check_settings(settings)
    yield "ok", f"from {settings.config}, environment and flags" if settings.config else "no config file"


def _check_ports(settings: Settings) -> Found:
    if settings.tcp:
        yield _check_port("port", settings.host, settings.port)
    if settings.tcp and isinstance(settings.data_port, int) and not settings.tls_certificate:
        yield _check_port("data_port", settings.host, settings.data_port)
    if settings.unix_socket:
        yield _check_unix_socket(Path(settings.unix_socket))
    if settings.metrics_port == "auto":
        status, text = _check_port("metrics_port", settings.metrics_host, METRICS_PORT)
        yield ("warning", f"{text}; no metrics would be served") if status == "failed" else (status, text)
    elif settings.metrics_port != "off":
        yield _check_port("metrics_port", settings.metrics_host, settings.metrics_port)


def _check_port(name: str, host: str, port: int) -> tuple[str, str]:
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(address)
    except OSError as error:
        return "failed", f"{name} {port} at {host} cannot be bound: {error.strerror or error}"
    return "ok", f"{name} {port} at {host} is free" if port else f"{name} is any free one at {host}"


def _check_unix_socket(path: Path) -> tuple[str, str]:
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        return "failed", f"unix_socket {path} is a file"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return "failed", f"unix_socket: {path.parent} is no folder that this user may write to"
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            return "ok", f"unix_socket {path} is free"
    return "failed", f"unix_socket {path} is in use"


def _check_tls(settings: Settings) -> Found:
    files = app.find_certificate_files(settings)
    if files is None:
        yield "skipped", "no TLS"
        return
    expiry = app.load_certificates(files).expiry
    left = expiry - datetime.now(UTC)
    if left.total_seconds() <= 0:
        yield "failed", f"{files.certificate} has expired on {expiry:%Y-%m-%d}"
        return
    verify_chain(files.certificate, files.key)
    status = "warning" if left < WARNING_PERIOD else "ok"
    yield status, f"{files.certificate} is valid until {expiry:%Y-%m-%d}, for {left.days} days"
    if files.client_authority is not None:
        yield "ok", f"clients need a certificate of {files.client_authority}"


def _check_tokens(settings: Settings) -> Found:
    app.load_identities(settings, Namespaces(NumpyBackend(), Limits()))
    if not settings.tokens_file:
        yield "skipped", "calls need no token"
        return
    path = Path(settings.tokens_file)
    try:
        access = read_access_file(path, allow_world_readable=settings.allow_world_readable_secrets)
    except AccessError as error:
        raise ConfigError(str(error)) from None
    expired = sorted(token.name for token in access.tokens.values() if not token.is_valid())
    namespaces = {token.namespace for token in access.tokens.values()}
    text = f"{path} has {len(access.tokens)} tokens of {len(namespaces)} namespaces"
    if not access.tokens and settings.allow_unauthenticated != "yes":
        yield "warning", f"{text}: no caller is accepted until one is added"
    elif expired:
        yield "warning", f"{text}; expired are {', '.join(expired)}"
    else:
        yield "ok", text


def _check_backend(settings: Settings) -> Found:
    backend = select_backend(settings.backend)
    yield "ok", f"{backend.name} on {backend.device}"


def _check_limits(settings: Settings) -> Found:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < MIN_DESCRIPTORS
    text = f"{soft} file descriptors (RLIMIT_NOFILE)"
    yield ("warning", f"{text}, fewer than {MIN_DESCRIPTORS}: raise the hard limit") if few else ("ok", text)
    available, budget = memory_limit(), app.make_budget(settings).limits["max_memory_bytes"]
    text = f"{budget // _MIB} MiB for sessions and transfers, of {available // _MIB} MiB of memory"
    yield "warning" if budget > available else "ok", text


def _check_disk(settings: Settings) -> Found:
    if not settings.data_dir:
        yield "skipped", "no data_dir: sessions are in memory only"
        return
    root = Path(settings.data_dir)
    if not root.exists():
        above = next(path for path in root.absolute().parents if path.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            yield "failed", f"{root} does not exist, and this user may not write to {above}"
            return
        yield "warning", f"{root} does not exist, and would be made"
        root = above
    elif not root.is_dir() or not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        yield "failed", f"{root} is no folder that this user may write to"
        return
    elif stat.S_IMODE(mode := root.stat().st_mode) & stat.S_IRWXO:
        yield "warning", f"other users may enter {root} (mode {stat.S_IMODE(mode):04o}): chmod 0700 {root}"
    yield _check_space(root, settings)


def _check_space(root: Path, settings: Settings) -> tuple[str, str]:
    free = shutil.disk_usage(root).free
    files = os.statvfs(root)
    journal = _count_bytes(root / "journal")
    # The journal at its length, and a snapshot more of every session.
    wanted = max(0, settings.journal_bytes - journal) + _count_bytes(root / "sessions")
    text = f"{free // _MIB} MiB are free at {root}"
    if files.f_files and files.f_favail < MIN_FREE_INODES:
        return "failed", f"{text}, but only {files.f_favail} files can be made"
    if free < MIN_FREE_BYTES:
        return "failed", text
    if free < wanted:
        return "warning", f"{text}; journal and snapshots may need {wanted // _MIB} MiB more than they have"
    return "ok", text


def _count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_data(settings: Settings) -> CheckResult:
    root = Path(settings.data_dir)
    if not settings.data_dir or not root.is_dir() or not any(root.iterdir()):
        return CheckResult("data", "skipped", "there are no sessions yet")
    try:
        report = check_data_directory(root)
    except (DirectoryError, OSError) as error:
        return CheckResult("data", "failed", str(error))
    findings = tuple(map(str, report.findings))
    text = f"{len(report.sessions)} sessions are whole; {len(findings)} findings"
    return CheckResult("data", "failed" if findings else "ok", text, findings)


_CHECKS: dict[str, Callable[[Settings], Found]] = {
    "settings": _check_settings,
    "ports": _check_ports,
    "tls": _check_tls,
    "tokens": _check_tokens,
    "backend": _check_backend,
    "limits": _check_limits,
    "disk": _check_disk,
}
