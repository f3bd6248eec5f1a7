"""Source of a hot backup: the files of a data directory as they are at one moment.

Snapshots, manifests and closed segments are never written to again, and the current segment only grows. So
a second name (a hard link) holds a file as it is, whatever the server does with the first one: what is
deleted keeps its content, and a segment with two names is not used again. To give all names takes the time
of a few system calls for each session, in which no record is committed; to copy takes as long as it takes.
"""

from __future__ import annotations

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
        with deleting, directory_log.pause(), journal.pause():
            begun = time.perf_counter()
            moment = datetime.now(UTC)
            # Before the snapshots: of those that are finished meanwhile the table need not know.
            positions = catalog.positions.read_all()
            ends = journal.list_segment_ends()
            count = _link_all(disk, catalog.root, folder, [*catalog.list_files(), *ends])
            facts = BackupFacts(
                catalog.identity,
                moment.isoformat(timespec="microseconds"),
                len(directory_log.folders),
                {str(path.relative_to(catalog.root)): end for path, end in ends.items()},
            )
            paused = time.perf_counter() - begun
        _write(disk, folder / "journal" / POSITIONS, positions)
        _write(disk, folder / BACKUP, facts.to_json())
    except BaseException:
        disk.remove(folder)
        raise
    _log.info("backup begins", extra={"facts": {"files": count, "paused_seconds": round(paused, 6)}})
    return BackupSource(folder, facts)


def _link_all(disk: Disk, root: Path, folder: Path, paths: Iterable[Path]) -> int:
    """Gives files second names; returns how many there are."""
    made, count = set[Path](), 0
    for name in FOLDERS:
        disk.make_folder(folder / name)
    for path in paths:
        target = folder / path.relative_to(root)
        if target.parent not in made:
            disk.make_folder(target.parent)
            made.add(target.parent)
        disk.link(path, target)
        count += 1
    return count


def _write(disk: Disk, path: Path, data: Piece) -> None:
    disk.make_folder(path.parent)
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        disk.write(fd, [data], 0)
    finally:
        disk.close(fd)
