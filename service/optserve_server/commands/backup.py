"""``optserve-server backup``: copies the data directory of a running server."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from pathlib import Path

from optserve_server import config
from optserve_server.commands.data_directory import find_data_dir

DESCRIPTION = (
    "Copies the data directory of a running server, as it is at one moment, while the server goes on. Runs on"
    " the server's host, as the server's user or root, with the settings of the server, of which data_dir"
    " counts. The copy can be checked (check --only data) and served as it is."
)

_TIMEOUT_S = 600.0
"""Seconds within which the server must have begun: it saves sessions that are not journalled."""

_MAX_ANSWER_BYTES = 1 << 16


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the server's flags, of which data_dir counts, and the target."""
    config.add_flags(parser)
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="folder of the copy, which must not exist or be empty"
    )


def run(parsed: argparse.Namespace) -> int:
    """Makes a backup and prints what it has; returns the exit status.

    Raises:
        ConfigError: a setting is wrong, or there is no data directory.
        RuntimeError: no server uses the directory, or it makes no backup.
        BackupError: the copy could not be written.
    """
    # Imported here: health, which runs every few seconds, imports the same package.
    from optserve_server.durability.backup_copy import copy_backup
    from optserve_server.storage.catalog import find_control_socket

    root, target = find_data_dir(parsed), parsed.target.absolute()
    if target.resolve().is_relative_to(root.resolve()):
        raise RuntimeError(f"{target} is in the data directory, but must be somewhere else")
    name = find_control_socket(root)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            if not name:
                raise ConnectionRefusedError
            connection.connect(f"\0{name}")
        except ConnectionRefusedError:
            raise RuntimeError(
                f"no server on this host uses {root}: of a stopped server, copy the directory itself"
            ) from None
        source = _begin(connection)
        facts, byte_count = copy_backup(source, target)
        _end(connection)
    print(f"{facts.sessions} sessions as at {facts.moment}, {byte_count} bytes, in {target}")
    return 0


def _begin(connection: socket.socket) -> Path:
    """Where the server holds the files."""
    connection.sendall(b"backup")
    try:
        answer = json.loads(connection.recv(_MAX_ANSWER_BYTES) or b"{}")
    except TimeoutError:
        answer = {}
    if "folder" not in answer:
        raise RuntimeError(f"the server makes no backup: {answer.get('error', 'it does not answer')}")
    return Path(answer["folder"])


def _end(connection: socket.socket) -> None:
    """Tells the server that it may let go of the files, if it is still there."""
    with contextlib.suppress(OSError):  # it has ended, after everything was copied
        connection.sendall(b"done")
