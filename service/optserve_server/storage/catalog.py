"""The data directory: its sessions and their snapshots.

::

    LOCK                                the server that uses it
    VERSION                             of this layout; written last, when all folders exist
    journal/000000000001.journal        see `optserve_server.storage.journal`
    journal/000000000001.spare          a journal's file that is to be used again
    journal/heads                       see `optserve_server.storage.durable_positions`
    sessions/ID/manifest.json           who the session is
    sessions/ID/auto-N-S.safetensors    state after its record N, at step S; the last few
    sessions/ID/kept-N-S.safetensors    the same, asked for by a client; all of them
    quarantine/ID.WHEN/                 what was found damaged
    trash/                              what is being made or deleted
    notes.json                          see `optserve_server.storage.intent_log`
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import Beside, Disk, Piece, beside, rename, write_whole
from optserve_server.storage.intent_log import Intent, IntentKind, IntentLog

VERSION = "optserve data 1\n"
"""What the file VERSION says."""

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
        owner: what its records in the journal are marked with; another one after every creation.
    """

    path: Path
    session_id: str
    owner: int

    def snapshots(self) -> list[SnapshotFile]:
        """Its snapshots, the latest first."""
        return sorted(_snapshots(self.path), key=lambda file: (-file.number, file.kept))

    def place(self, number: int, step: int, *, kept: bool) -> Path:
        """Where a snapshot belongs."""
        return self.path / f"{'kept' if kept else 'auto'}-{number:012}-{step}.safetensors"


def _snapshots(folder: Path) -> Iterator[SnapshotFile]:
    for path in folder.iterdir():
        match = _SNAPSHOT.fullmatch(path.name)
        if match:
            yield SnapshotFile(path, int(match[2]), int(match[3]), match[1] == "kept")


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
        self._trash = root / "trash"
        disk.make_folder(root)
        self._lock = self._acquire_lock()
        try:
            is_new = self._is_new()
            for folder in (self.sessions, self.journal, self.quarantine, self._trash):
                disk.make_folder(folder)
            disk.sync_folder(root)
            if is_new:
                write_whole(disk, root / "VERSION", [VERSION.encode()])
            self._sweep()
            self.intent_log = IntentLog(disk, root / "notes.json")
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
                yield SessionFolder(path, path.name, self._owner(path))
            except DamagedError as error:
                yield path.name, error

    def create(
        self, session_id: str, write: Callable[[Callable[[Piece], None]], None], number: int, step: int
    ) -> SessionFolder:
        """Makes a session with its first snapshot, or nothing.

        Args:
            session_id: its id.
            write: writes the snapshot to what it is given.
            number: the last record that the snapshot holds.
            step: the session's step.
        """
        owner = secrets.randbits(63) | 1
        made = self._trash / f"{session_id}.{owner:016x}"
        self.disk.make_folder(made)
        try:
            new = SessionFolder(made, session_id, owner)
            write_whole(self.disk, made / _MANIFEST, [_manifest(session_id, owner)])
            with beside(self.disk, new.place(number, step, kept=False)) as file:
                write(file.write)
                file.finish()
            rename(self.disk, made, self.sessions / session_id)
        except BaseException:
            self.disk.remove(made)
            raise
        return SessionFolder(self.sessions / session_id, session_id, owner)

    def delete(self, folder: SessionFolder, note: Intent) -> None:
        """Deletes a session, at once and then file by file; noted where it may be asked for again."""
        with self.intent_log.noting(note) if note.request else contextlib.nullcontext():
            self._throw_away(folder)

    def keep(self, file: Beside, note: Intent) -> None:
        """Finishes a snapshot that a client requested."""
        with self.intent_log.noting(note):
            file.finish()

    def release(self, folder: SessionFolder, note: Intent) -> None:
        """Deletes the snapshots that ``note`` names."""
        with self.intent_log.noting(note):
            self._release(folder, note.files)

    def complete(self) -> list[Intent]:
        """Completes what was noted and not done, and returns what is done, the oldest first."""
        gone = []
        for note in self.intent_log.all():
            with contextlib.suppress(OSError, DamagedError):
                note.done = self._complete(note)
                if not note.done:
                    gone.append(note)
        if gone or self.intent_log.outdated:
            self.intent_log.settle(gone)
        return self.intent_log.all()

    def _complete(self, note: Intent) -> bool:
        """Sees to what was noted; False for a snapshot that did not get its place, or lost its session."""
        path = self.sessions / note.folder
        there = path.exists() and self._owner(path) == note.owner
        if note.done:
            return there or note.kind is IntentKind.DELETE
        self.intent_log.outdated = True
        folder = SessionFolder(path, path.name, note.owner)
        if there and note.kind is IntentKind.DELETE:
            self._throw_away(folder)
        elif there and note.kind is IntentKind.DROP:
            self._release(folder, note.files)
        elif note.kind is IntentKind.SAVE:
            return there and all((path / name).exists() for name in note.files)
        return True

    def _throw_away(self, folder: SessionFolder) -> None:
        gone = self._trash / f"{folder.path.name}.{folder.owner:016x}"
        try:
            rename(self.disk, folder.path, gone)
        except OSError:
            with contextlib.suppress(OSError):  # what is refused stays
                self.disk.replace(gone, folder.path)
            raise
        with contextlib.suppress(OSError):  # the next start has another try
            self.disk.remove(gone)

    def _release(self, folder: SessionFolder, names: Collection[str]) -> None:
        """Deletes snapshots; those that hold the last change are left for `prune` to delete."""
        files = folder.snapshots()
        latest = max((file.number for file in files), default=0)
        for file in files:
            if file.path.name not in names:
                continue
            if file.number < latest:
                self.disk.remove(file.path)
            elif file.kept:
                rename(self.disk, file.path, folder.place(file.number, file.step, kept=False))

    def prune(self, folder: SessionFolder, generations: int) -> None:
        """Deletes all but the latest snapshots that no client requested."""
        automatic = [file for file in folder.snapshots() if not file.kept]
        for file in automatic[generations:]:
            self.disk.remove(file.path)

    def set_aside(self, path: Path) -> Path:
        """Moves what is damaged out of the way, and returns where it is now."""
        place = self.quarantine / f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}.{secrets.token_hex(2)}"
        rename(self.disk, path, place)
        return place

    def aside(self) -> dict[str, list[Path]]:
        """What lies in quarantine, by the session's id."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.quarantine.iterdir()):
            if path.is_dir():
                found.setdefault(path.name.rsplit(".", 2)[0], []).append(path)
        return found

    def discard(self, note: Intent) -> None:
        """Removes what lies in quarantine of a session's folder."""
        with self.intent_log.noting(note) if note.request else contextlib.nullcontext():
            for path in self.aside().get(note.folder, []):
                self.disk.remove(path)

    def read(self, file: SnapshotFile) -> snapshot.Contents:
        """Reads a snapshot.

        Raises:
            DamagedError: it is damaged.
        """
        return snapshot.read(self.disk.read(file.path))

    def _owner(self, path: Path) -> int:
        try:
            facts: dict[str, Any] = json.loads(bytes(self.disk.read(path / _MANIFEST)))
            check = facts.pop("checksum")
            if check == _check(facts) and facts["id"] == path.name:
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

    def _sweep(self) -> None:
        """Removes what was being written or deleted when the last server ended."""
        for path in self._trash.iterdir():
            self.disk.remove(path)
        for path in (*self.root.glob(".*.new"), *self.sessions.glob("*/.*.new")):
            self.disk.remove(path)


def _manifest(session_id: str, owner: int) -> bytes:
    facts = {"id": session_id, "owner": f"{owner:016x}"}
    return json.dumps({**facts, "checksum": _check(facts)}, indent=1).encode() + b"\n"


def _check(facts: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(facts, sort_keys=True).encode())
