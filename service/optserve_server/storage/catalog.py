"""The data directory: its sessions and their snapshots.

::

    LOCK                                the server that uses it, and its control socket
    BACKUP                              in a copy that no server has used yet, see `BackupFacts`
    VERSION                             format and identity; written last, when all folders exist
    journal/000000000001.journal        see `optserve_server.storage.journal`
    journal/000000000001.spare          a journal's file that is to be used again
    journal/positions                   see `optserve_server.storage.durable_positions`
    sessions/ID/manifest.json           the session, and the directory that it belongs to
    sessions/ID/auto-N-S.safetensors    state after its record N, at step S; the last few
    sessions/ID/kept-N-S.safetensors    the same, asked for by a client; all of them
    quarantine/ID.WHEN/                 what was found damaged, with the journal's files that have its records
    trash/                              what is being made or deleted

Sessions and snapshots that clients ask for get their places, and lose them, by changes that
`optserve_server.durability.directory_log` records; `Catalog` prepares what they move.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError, UnknownFormatError
from optserve_server.storage.directory_format import (
    BACKUP,
    FORMAT,
    DirectoryError,
    check_format,
    make_identity,
    parse_version,
    read_backup_facts,
    version_text,
)
from optserve_server.storage.durable_positions import POSITIONS, DurablePositions
from optserve_server.storage.files import (
    Disk,
    Piece,
    TemporaryFile,
    list_folder,
    rename_durably,
    write_file_atomically,
)
from optserve_server.storage.journal import SEGMENT_NAME, Segment

VERSION = "VERSION"
"""Name of the file that states format and identity."""

TRASH = "trash"
"""Folder of what is being made or deleted."""

FOLDERS = "sessions", "journal", "quarantine", TRASH
"""Folders of a data directory."""

Move = tuple[Path, Path]
"""A file or folder that gets another place: from, to."""

IDENTITY = "session"
"""Name of the metadata of a snapshot that says whose and which it is."""

_SNAPSHOT = re.compile(r"(auto|kept)-(\d{12})-(\d+)\.safetensors", re.ASCII)
_QUARANTINED = re.compile(r"(.+)\.\d{8}T\d{6}\.[0-9a-f]{4}", re.ASCII)
_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotFile:
    """A snapshot of a session.

    Attributes:
        path: where it is.
        owner: owner of the session's records.
        number: the last record that it holds.
        step: the session's step.
        kept: whether a client asked for it.
        earlier: numbers of the automatic snapshots that stay beside it when it is written.
    """

    path: Path
    owner: int
    number: int
    step: int
    kept: bool
    earlier: tuple[int, ...] = ()

    def metadata(self) -> dict[str, str]:
        """The part of the metadata that says whose and which snapshot a file is."""
        facts = {
            "format": FORMAT,
            "owner": f"{self.owner:016x}",
            "number": self.number,
            "step": self.step,
            "kept": self.kept,
            "earlier": self.earlier,
        }
        return {IDENTITY: json.dumps(facts)}

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
        found = ((path, _SNAPSHOT.fullmatch(path.name)) for path in list_folder(self.path))
        files = [SnapshotFile(p, self.owner, int(m[2]), int(m[3]), m[1] == "kept") for p, m in found if m]
        return sorted(files, key=lambda file: (-file.number, file.kept))

    def snapshot_path(self, number: int, step: int, *, kept: bool) -> Path:
        """Where a snapshot belongs."""
        return self.path / f"{'kept' if kept else 'auto'}-{number:012}-{step}.safetensors"

    def plan_snapshot(
        self, number: int, step: int, *, is_kept: bool = False, generations: int = 1
    ) -> SnapshotFile:
        """A snapshot that is to be written, beside which ``generations - 1`` earlier ones stay."""
        found = self.snapshots() if generations > 1 else []
        automatic = {file.number for file in found if not file.kept} - {number}
        earlier = tuple(sorted(automatic, reverse=True)[: generations - 1])
        return SnapshotFile(
            self.snapshot_path(number, step, kept=is_kept), self.owner, number, step, is_kept, earlier
        )

    def list_own_segments(self) -> list[Path]:
        """Files of the journal that lie in the folder since it was in quarantine."""
        return [path for path in list_folder(self.path) if SEGMENT_NAME.fullmatch(path.name)]


class Catalog:
    """The sessions of a data directory that is locked against other processes.

    Args:
        disk: how to get at it.
        root: the directory; made where it is not there.
        accept_loss: whether to make another table of positions if it is missing or damaged. Then nothing
            proves that a session is complete.

    Raises:
        DirectoryError: another server uses it, it is of another format, or parts of it are missing.
        OSError: it cannot be made or written to.

    Attributes:
        identity: the directory's.
        positions: how far the sessions' records go, and of which files the journal consists.
    """

    def __init__(self, disk: Disk, root: Path, *, accept_loss: bool = False) -> None:
        self.disk = disk
        self.root = root
        self.sessions, self.journal, self.quarantine, self._trash = (root / name for name in FOLDERS)
        # Before anything is written: a directory of a newer format stays as it is.
        self._read_identity()
        disk.make_folder(root)
        self._lock = self._acquire_lock()
        try:
            found = self._read_identity()
            self.identity = found or make_identity()
            for folder in (self.sessions, self.journal, self.quarantine, self._trash):
                disk.make_folder(folder)
            disk.sync_folder(root)
            self.positions = self._open_positions(is_new=found is None, accept_loss=accept_loss)
            try:
                if found is None:
                    disk.sync_folder(self.journal)
                version = version_text(self.identity).encode()
                if found is None or bytes(disk.read(root / VERSION)) != version:  # new, or of an older format
                    write_file_atomically(disk, root / VERSION, [version])
                self._write_holder()
            except BaseException:
                self.positions.close()
                raise
        except BaseException:
            self.disk.close(self._lock)
            raise

    def _open_positions(self, *, is_new: bool, accept_loss: bool) -> DurablePositions:
        path = self.journal / POSITIONS
        try:
            return DurablePositions(self.disk, path, self.identity, is_new=is_new)
        except DirectoryError:
            if not accept_loss:
                raise
        return DurablePositions(self.disk, path, self.identity, is_new=True)

    def close(self) -> None:
        """Lets another server use the directory."""
        try:
            self.positions.close()
        finally:
            self.disk.close(self._lock)

    def iterate_sessions(
        self, known: Mapping[str, int] | None = None
    ) -> Iterator[SessionFolder | tuple[str, DamagedError]]:
        """Every session; where its manifest is damaged, its id and what is wrong.

        Args:
            known: owners of the sessions that exist, by the names of their folders; None if the
                directory does not know them.
        """
        for path in list_folder(self.sessions):
            is_expected = known is not None and path.name in known
            if not _is_session_folder(path) and not (is_expected and path.is_dir()):
                _log.warning("%s is no session, and is ignored", path)
                continue
            try:
                owner = self._read_owner(path)
                if known is not None and known.get(path.name) != owner:
                    raise DamagedError(
                        "the session was deleted, or is of another directory; its snapshots can be imported"
                    )
            except DamagedError as error:
                yield path.name, error
            else:
                yield SessionFolder(path, path.name, owner)

    def assign_folder(self, name: str) -> SessionFolder:
        """The place of a session that is to be made."""
        return SessionFolder(self.sessions / name, name, secrets.randbits(63) | 1)

    def create_session_folder(
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
            write_file_atomically(self.disk, made / _MANIFEST, [_manifest(self.identity, folder)])
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
        """What deletes snapshots; `prune_snapshots` deletes those that hold the last change."""
        latest = max(file.number for file in folder.snapshots())
        kept = [file for file in files if file.kept and file.number == latest]
        return [
            *((file.path, folder.snapshot_path(file.number, file.step, kept=False)) for file in kept),
            *self.plan_deletion([file.path for file in files if file.number < latest]),
        ]

    def _trash_place(self, path: Path) -> Path:
        return self._trash / f"{path.name}.{secrets.token_hex(4)}"

    def prune_snapshots(self, folder: SessionFolder, generations: int) -> None:
        """Deletes all but the latest snapshots that no client requested, and records that they cover."""
        automatic = [file for file in folder.snapshots() if not file.kept]
        for path in (*(file.path for file in automatic[generations:]), *folder.list_own_segments()):
            self.disk.remove(path)

    def move_to_quarantine(self, path: Path) -> Path:
        """Moves what is damaged out of the way, and returns where it is now."""
        place = self._quarantine_place(path.name)
        rename_durably(self.disk, path, place)
        return place

    def make_quarantine(self, name: str) -> Path:
        """Makes a folder in quarantine for what is left of a session whose folder is missing."""
        place = self._quarantine_place(name)
        self.disk.make_folder(place)
        self.disk.sync_folder(self.quarantine)
        return place

    def copy_segments(self, segments: Iterable[Segment], folder: Path) -> None:
        """Gives segments a second name in a folder, or copies them if the file system has no links."""
        for segment in segments:
            target = folder / segment.path.name
            if target.exists():
                continue
            try:
                self.disk.link(segment.path, target)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                write_file_atomically(self.disk, target, [self.disk.read(segment.path)])
        self.disk.sync_folder(folder)

    def _quarantine_place(self, name: str) -> Path:
        return self.quarantine / f"{name}.{time.strftime('%Y%m%dT%H%M%S')}.{secrets.token_hex(2)}"

    def list_quarantined(self) -> dict[str, list[Path]]:
        """What lies in quarantine, by the session's id."""
        found: dict[str, list[Path]] = {}
        for path in list_folder(self.quarantine):
            match = _QUARANTINED.fullmatch(path.name)
            if match is not None and path.is_dir():
                found.setdefault(match[1], []).append(path)
        return found

    def read_snapshot(self, file: SnapshotFile) -> snapshot.Contents:
        """Reads a snapshot.

        Raises:
            DamagedError: it is damaged, or of another session, number or step than its place.
        """
        contents = snapshot.read_snapshot(self.disk.read(file.path))
        found = _identity_of(contents, file.path)
        # A snapshot that a client deleted stays as an automatic one while the server needs it.
        if found != replace(file, kept=found.kept or file.kept, earlier=found.earlier):
            raise DamagedError("it is another snapshot than its place and name say")
        return contents

    def read_earlier(self, file: SnapshotFile) -> tuple[int, ...]:
        """Numbers of the automatic snapshots that have to be beside one.

        Raises:
            DamagedError: it is damaged.
        """
        return _identity_of(snapshot.read_snapshot(self.disk.read(file.path)), file.path).earlier

    def write_manifest(self, folder: SessionFolder) -> None:
        """Writes the manifest of a session again."""
        write_file_atomically(self.disk, folder.path / _MANIFEST, [_manifest(self.identity, folder)])

    def find_owner(self, path: Path) -> int | None:
        """The owner that the snapshots of a folder name, if all that are sound name one."""
        owners = set()
        for file in SessionFolder(path, "", 0).snapshots():
            with contextlib.suppress(DamagedError):
                owners.add(_identity_of(snapshot.read_snapshot(self.disk.read(file.path)), file.path).owner)
        return owners.pop() if len(owners) == 1 else None

    def _read_owner(self, path: Path) -> int:
        try:
            data = bytes(self.disk.read(path / _MANIFEST))
            facts: dict[str, Any] = json.loads(data)
            owner, number, directory = int(facts["owner"], 16), facts["format"], str(facts["directory"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{_MANIFEST} is damaged or missing") from error
        folder = SessionFolder(path, path.name, owner)
        if type(number) is int and facts.get("checksum") == _check(facts):
            check_format(path / _MANIFEST, number)
            if directory != self.identity:
                raise DamagedError(f"it belongs to data directory {directory}, but this is {self.identity}")
            if facts["id"] != path.name:
                raise DamagedError(f"it is the folder of session {facts['id']!r}, under another name")
        if data != _manifest(self.identity, folder, number):
            raise DamagedError(f"{_MANIFEST} is damaged or missing")
        return owner

    def _acquire_lock(self) -> int:
        fd = self.disk.open(self.root / "LOCK", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 256, 0).decode(errors="replace").partition("\n")[0]
            self.disk.close(fd)
            text = f"the data directory {self.root} is in use by another server ({holder or 'unknown'})"
            raise DirectoryError(text) from error
        return fd

    def announce_socket(self, name: str) -> None:
        """States the server's control socket in the file LOCK, for `find_control_socket`."""
        self._write_holder(f"socket {name}\n")

    def _write_holder(self, rest: str = "") -> None:
        text = f"process {os.getpid()} on {socket.gethostname()}\n{rest}".encode()
        with contextlib.suppress(OSError):  # a full disk
            self.disk.truncate(self._lock, self.disk.write(self._lock, [text], 0))

    def _read_identity(self) -> str | None:
        """The identity; None if the directory is to be set up.

        Raises:
            DirectoryError: it is of another format, or parts of it are missing: sessions would be
                lost without a word if it were taken for an empty one.
        """
        path = self.root / VERSION
        if (self.root / BACKUP).exists():
            facts = read_backup_facts(self.root)
            if facts is None or not facts.is_complete:
                raise DirectoryError(
                    f"the data directory {self.root} is a backup that was not completed: use another one"
                )
        if not path.exists():
            if self.sessions.exists() and any(map(_is_session_folder, self.sessions.iterdir())):
                raise DirectoryError(
                    f"the data directory {self.root} has sessions, but no {VERSION}: restore it from a backup"
                )
            return None
        identity = parse_version(path, bytes(self.disk.read(path)).decode(errors="replace"))
        for folder in (self.sessions, self.journal):
            if not folder.is_dir():
                raise DirectoryError(
                    f"the data directory {self.root} has a VERSION, but its {folder.name}/ is missing;"
                    " restore it or mount its disk, or remove the directory to start without its sessions"
                )
        return identity

    def list_files(self) -> Iterator[Path]:
        """Every file that a copy of the directory needs, but for the journal.

        Raises:
            FileNotFoundError: a session was deleted meanwhile.
        """
        yield self.root / VERSION
        for folder in map(self.sessions.joinpath, os.listdir(self.sessions)):
            if folder.is_dir():
                names = [name for name in os.listdir(folder) if not name.startswith(".")]
                if _MANIFEST in names:
                    yield from map(folder.joinpath, names)
        yield from (path for path in sorted(self.quarantine.rglob("*")) if path.is_file())

    def make_trash_folder(self, name: str) -> Path:
        """Makes a folder whose content is removed at the next start, if not before."""
        folder = self._trash_place(Path(name))
        self.disk.make_folder(folder)
        return folder

    def remove_leftovers(self) -> None:
        """Removes what was being written or deleted when the last server ended.

        The directory is in use from now on, and is no backup any more.
        """
        self.disk.remove(self.root / BACKUP)
        for path in self._trash.iterdir():
            self.disk.remove(path)
        for path in (*self.root.glob(".*.new"), *self.sessions.glob("*/.*.new")):
            self.disk.remove(path)


def find_control_socket(root: Path) -> str:
    """Name of the control socket of the server that uses a directory; empty if none does."""
    try:
        found = re.search(r"^socket (\S+)$", (root / "LOCK").read_text(errors="replace"), re.MULTILINE)
    except FileNotFoundError:
        return ""
    return "" if found is None else found[1]


def is_kept_snapshot(path: str) -> bool:
    """Whether a path from the root of the directory is that of a snapshot that a client asked for."""
    parts = path.split("/")
    match = _SNAPSHOT.fullmatch(parts[-1])
    return parts[0] == "sessions" and len(parts) == 3 and match is not None and match[1] == "kept"


def _is_session_folder(path: Path) -> bool:
    """Whether a folder looks like that of a session."""
    try:
        names = [inner.name for inner in path.iterdir()]
    except OSError:  # a file, or lost+found, which others than root cannot read
        return False
    return any(name == _MANIFEST or _SNAPSHOT.fullmatch(name) for name in names)


def _manifest(directory: str, folder: SessionFolder, number: int = FORMAT) -> bytes:
    """The manifest of a session, in the format of that number."""
    owner = f"{folder.owner:016x}"
    facts = {"format": number, "directory": directory, "id": folder.session_id, "owner": owner}
    return json.dumps({**facts, "checksum": _check(facts)}, indent=1).encode() + b"\n"


def _check(facts: Mapping[str, Any]) -> str:
    checked = {name: value for name, value in facts.items() if name != "checksum"}
    return xxhash.xxh3_64_hexdigest(json.dumps(checked, sort_keys=True).encode())


def _identity_of(contents: snapshot.Contents, path: Path) -> SnapshotFile:
    try:
        facts: dict[str, Any] = json.loads(contents.metadata[IDENTITY])
        if facts["format"] > FORMAT:
            number = facts["format"]
            raise UnknownFormatError(f"it has format {number}, which is newer than format {FORMAT}")
        earlier = tuple(facts["earlier"])
        return SnapshotFile(
            path, int(facts["owner"], 16), facts["number"], facts["step"], facts["kept"], earlier
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError("it does not say which session it is of") from error
