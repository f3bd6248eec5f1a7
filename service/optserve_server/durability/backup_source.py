"""Source of a hot backup: the files of a data directory as they are at one moment.

Snapshots, manifests and closed segments are never written to again, and the current segment only grows. So
a second name (a hard link) holds a file as it is, whatever the server does with the first one: what is
deleted keeps its content, and a segment with two names is not used again. Most files get theirs while
records are committed; the journal is paused for a last look at every folder, and for what is new.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from optserve_server.durability.directory_log import DirectoryLog
from optserve_server.storage.catalog import FOLDERS, Catalog
from optserve_server.storage.directory_format import BACKUP, BackupFacts
from optserve_server.storage.durable_positions import POSITIONS
from optserve_server.storage.files import Disk, Piece
from optserve_server.storage.journal import Journal

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackupSource:
    """Files that are held for a backup.

    Attributes:
        folder: where they are, under the names that they have in a data directory, with a file BACKUP.
        facts: what that file says.
    """

    folder: Path
    facts: BackupFacts


def pin_directory(
    catalog: Catalog, journal: Journal, directory_log: DirectoryLog, deleting: threading.Lock
) -> BackupSource:
    """Gives every file of a directory a second name; blocks.

    Args:
        catalog: the directory.
        journal: its journal, which is paused meanwhile.
        directory_log: its changes, which are paused meanwhile.
        deleting: held where files are deleted that are no longer needed.

    Raises:
        OSError: the file system has no hard links, or refuses them; nothing is left.
    """
    disk = catalog.disk
    folder = catalog.make_trash_folder("backup")
    try:
        links = _HardLinks(disk, catalog.root, folder)
        with deleting:
            with contextlib.suppress(FileNotFoundError):  # a session that is deleted meanwhile
                links.create_missing(catalog.list_files())
            with directory_log.pause(), journal.pause():
                begun = time.perf_counter()
                moment = datetime.now(UTC)
                # Before the snapshots: of those that are finished meanwhile the table need not know.
                positions = catalog.positions.read_all()
                ends = journal.list_segment_ends()
                present = links.create_missing([*catalog.list_files(), *ends])
                session_count = len(directory_log.folders)
                paused = time.perf_counter() - begun
        links.remove_others(present)
        facts = BackupFacts(
            catalog.identity,
            moment.isoformat(timespec="microseconds"),
            session_count,
            {str(path.relative_to(catalog.root)): end for path, end in ends.items()},
        )
        _write(disk, folder / "journal" / POSITIONS, positions)
        _write(disk, folder / BACKUP, facts.to_json())
    except BaseException:
        disk.remove(folder)
        raise
    _log.info("backup begins", extra={"facts": {"files": len(present), "paused_seconds": round(paused, 6)}})
    return BackupSource(folder, facts)


class _HardLinks:
    """Second names of a directory's files.

    Args:
        disk: where.
        root: the directory.
        folder: where the second names are, under the same paths.
    """

    def __init__(self, disk: Disk, root: Path, folder: Path) -> None:
        self._disk, self._root, self._folder = disk, root, folder
        self._made: dict[Path, tuple[Path, int]] = {}  # with the number of the file itself
        for name in FOLDERS:
            disk.make_folder(folder / name)

    def create_missing(self, paths: Iterable[Path]) -> set[Path]:
        """Gives those files second names that have none yet; returns all of ``paths``."""
        present = set()
        for path in paths:
            present.add(path)
            if path in self._made:
                target, number = self._made[path]
                if path.stat().st_ino == number:
                    continue
                self._disk.remove(target)  # another file of that name: a session was created again
            else:
                target = self._folder / path.relative_to(self._root)
                self._disk.make_folder(target.parent)
            self._disk.link(path, target)
            self._made[path] = target, target.stat().st_ino
        return present

    def remove_others(self, present: set[Path]) -> None:
        """Removes the second names of all files but these."""
        for path in self._made.keys() - present:
            target, _ = self._made.pop(path)
            self._disk.remove(target)
            if not any(target.parent.iterdir()):  # of a session that was deleted
                self._disk.remove(target.parent)


def _write(disk: Disk, path: Path, data: Piece) -> None:
    disk.make_folder(path.parent)
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        disk.write(fd, [data], 0)
    finally:
        disk.close(fd)
