"""The data directory: its sessions and their snapshots.

::

    LOCK                                the server that uses it
    VERSION                             of this layout; written last, when all folders exist
    journal/000000000001.journal        see `optserve_server.storage.journal`
    journal/000000000001.spare          a journal's file that is to be used again
    journal/positions                   see `optserve_server.storage.durable_positions`
    sessions/ID/manifest.json           who the session is
    sessions/ID/auto-N-S.safetensors    state after its record N, at step S; the last few
    sessions/ID/kept-N-S.safetensors    the same, asked for by a client; all of them
    quarantine/ID.WHEN/                 what was found damaged
    trash/                              what is being made or deleted

Sessions and snapshots that clients ask for get their places, and lose them, by changes that
`optserve_server.durability.directory_log` records; `Catalog` prepares what they move.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import Disk, Piece, TemporaryFile, rename_durably, write_file_atomically

VERSION = "optserve data 2\n"
"""What the file VERSION says."""

TRASH = "trash"
"""Folder of what is being made or deleted."""

Move = tuple[Path, Path]
"""A file or folder that gets another place: from, to."""

_SNAPSHOT = re.compile(r"(auto|kept)-(\d{12})-(\d+)\.safetensors")
_MANIFEST = "manifest.json"


class DirectoryError(RuntimeError):
    """The data directory cannot be used; the message says why."""


@dataclass(frozen=True)
class SnapshotFile:
    """A snapshot of a session.

    Attributes:
        path: where it is.
        number: the last record that it holds.
        step: the session's step.
        kept: whether a client asked for it.
    """

    path: Path
    number: int
    step: int
    kept: bool

    @property
    def byte_count(self) -> int:
        """Length of the file."""
        return self.path.stat().st_size

    @property
    def created(self) -> float:
        """When it was written, in seconds since 1970."""
        return self.path.stat().st_mtime


@dataclass(frozen=True)
class SessionFolder:
    """Folder of a session in the data directory.

    Attributes:
        path: the folder.
        session_id: the last part of the session's resource name.
        owner: what its records in the journal are marked with: an odd number, another one after
            every creation.
    """

    path: Path
    session_id: str
    owner: int

    def snapshots(self) -> list[SnapshotFile]:
        """Its snapshots, the latest first."""
        found = ((path, _SNAPSHOT.fullmatch(path.name)) for path in self.path.iterdir())
        files = [SnapshotFile(p, int(m[2]), int(m[3]), m[1] == "kept") for p, m in found if m]
        return sorted(files, key=lambda file: (-file.number, file.kept))

    def snapshot_path(self, number: int, step: int, *, kept: bool) -> Path:
        """Where a snapshot belongs."""
        return self.path / f"{'kept' if kept else 'auto'}-{number:012}-{step}.safetensors"


class Catalog:
    """The sessions of a data directory that is locked against other processes.

    Args:
        disk: how to get at it.
        root: the directory; made where it is not there.

    Raises:
        DirectoryError: another server uses it, it is of another version, or parts of it are missing.
        OSError: it cannot be made or written to.
    """

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self.root = root
        self.sessions = root / "sessions"
        self.journal = root / "journal"
        self.quarantine = root / "quarantine"
        self._trash = root / TRASH
        disk.make_folder(root)
        self._lock = self._acquire_lock()
        try:
            is_new = self._is_new()
            for folder in (self.sessions, self.journal, self.quarantine, self._trash):
                disk.make_folder(folder)
            disk.sync_folder(root)
            if is_new:
                write_file_atomically(disk, root / "VERSION", [VERSION.encode()])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another server use the directory."""
        self.disk.close(self._lock)

    def folders(self) -> Iterator[SessionFolder | tuple[str, DamagedError]]:
        """Every session; where its manifest is damaged, its id and what is wrong."""
        for path in sorted(self.sessions.iterdir()):
            try:
                yield SessionFolder(path, path.name, self._read_owner(path))
            except DamagedError as error:
                yield path.name, error

    def assign_folder(self, name: str) -> SessionFolder:
        """The place of a session that is to be made."""
        return SessionFolder(self.sessions / name, name, secrets.randbits(63) | 1)

    def create(
        self, folder: SessionFolder, write: Callable[[Callable[[Piece], None]], None], step: int
    ) -> list[Move]:
        """Makes a session's folder with its first snapshot.

        Args:
            folder: the place that it is to get.
            write: writes the snapshot to what it is given.
            step: the session's step.

        Returns:
            What puts it in its place.
        """
        made = self._trash_place(folder.path)
        self.disk.make_folder(made)
        try:
            write_file_atomically(
                self.disk, made / _MANIFEST, [_encode_manifest(folder.session_id, folder.owner)]
            )
            with TemporaryFile(
                self.disk, SessionFolder(made, "", 0).snapshot_path(0, step, kept=False)
            ) as file:
                write(file.write)
                file.move_into_place()
        except BaseException:
            self.disk.remove(made)
            raise
        return [(made, folder.path)]

    def plan_deletion(self, paths: Sequence[Path]) -> list[Move]:
        """What deletes files and folders."""
        return [(path, self._trash_place(path)) for path in paths]

    def plan_replacement(self, folder: SessionFolder, file: TemporaryFile, step: int) -> list[Move]:
        """What puts a snapshot in its place, instead of others of its step that a client asked for."""
        others = [f.path for f in folder.snapshots() if f.kept and f.step == step and f.path != file.path]
        return [(file.temporary, file.path), *self.plan_deletion(others)]

    def plan_snapshot_deletion(self, folder: SessionFolder, files: Sequence[SnapshotFile]) -> list[Move]:
        """What deletes snapshots; those that hold the last change are left for `prune` to delete."""
        latest = max(file.number for file in folder.snapshots())
        kept = [file for file in files if file.kept and file.number == latest]
        return [
            *((file.path, folder.snapshot_path(file.number, file.step, kept=False)) for file in kept),
            *self.plan_deletion([file.path for file in files if file.number < latest]),
        ]

    def _trash_place(self, path: Path) -> Path:
        return self._trash / f"{path.name}.{secrets.token_hex(4)}"

    def prune(self, folder: SessionFolder, generations: int) -> None:
        """Deletes all but the latest snapshots that no client requested."""
        automatic = [file for file in folder.snapshots() if not file.kept]
        for file in automatic[generations:]:
            self.disk.remove(file.path)

    def move_to_quarantine(self, path: Path) -> Path:
        """Moves what is damaged out of the way, and returns where it is now."""
        place = self.quarantine / f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}.{secrets.token_hex(2)}"
        rename_durably(self.disk, path, place)
        return place

    def list_quarantined(self) -> dict[str, list[Path]]:
        """What lies in quarantine, by the session's id."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.quarantine.iterdir()):
            if path.is_dir():
                found.setdefault(path.name.rsplit(".", 2)[0], []).append(path)
        return found

    def read_snapshot(self, file: SnapshotFile) -> snapshot.Contents:
        """Reads a snapshot.

        Raises:
            DamagedError: it is damaged.
        """
        return snapshot.read(self.disk.read(file.path))

    def _read_owner(self, path: Path) -> int:
        try:
            facts: dict[str, Any] = json.loads(bytes(self.disk.read(path / _MANIFEST)))
            check = facts.pop("checksum")
            if check == _manifest_checksum(facts) and facts["id"] == path.name:
                return int(facts["owner"], 16)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        raise DamagedError(f"{_MANIFEST} is damaged or missing")

    def _acquire_lock(self) -> int:
        fd = self.disk.open(self.root / "LOCK", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 256, 0).decode(errors="replace").strip()
            self.disk.close(fd)
            text = f"the data directory {self.root} is in use by another server ({holder or 'unknown'})"
            raise DirectoryError(text) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return fd

    def _is_new(self) -> bool:
        """Whether the directory is to be set up.

        Raises:
            DirectoryError: it is of another version, or parts of it are missing: sessions would be
                lost without a word if it were taken for an empty one.
        """
        path = self.root / "VERSION"
        if not path.exists():
            if self.sessions.exists() and any(self.sessions.iterdir()):
                raise DirectoryError(f"the data directory {self.root} has sessions, but no VERSION")
            return True
        found = bytes(self.disk.read(path)).decode(errors="replace")
        if found != VERSION:
            raise DirectoryError(f"the data directory {self.root} is of version {found!r}, not {VERSION!r}")
        for folder in (self.sessions, self.journal):
            if not folder.is_dir():
                raise DirectoryError(
                    f"the data directory {self.root} has a VERSION, but its {folder.name}/ is missing;"
                    " restore it or mount its disk, or remove the directory to start without its sessions"
                )
        return False

    def remove_leftovers(self) -> None:
        """Removes what was being written or deleted when the last server ended."""
        for path in self._trash.iterdir():
            self.disk.remove(path)
        for path in (*self.root.glob(".*.new"), *self.sessions.glob("*/.*.new")):
            self.disk.remove(path)


def _encode_manifest(session_id: str, owner: int) -> bytes:
    facts = {"id": session_id, "owner": f"{owner:016x}"}
    return json.dumps({**facts, "checksum": _manifest_checksum(facts)}, indent=1).encode() + b"\n"


def _manifest_checksum(facts: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(facts, sort_keys=True).encode())
