"""Copy of a backup's source to its place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from optserve_server.errors import Reason
from optserve_server.storage.directory_format import BACKUP, BackupFacts, read_backup_facts
from optserve_server.storage.failpoints import hit_failpoint
from optserve_server.storage.files import Disk, Piece, split_blocks, write_file_atomically


class BackupError(RuntimeError):
    """A backup could not be made.

    Attributes:
        reason: STORAGE_FULL or STORAGE_UNAVAILABLE.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason


def copy_backup(source: Path, target: Path, disk: Disk | None = None) -> tuple[BackupFacts, int]:
    """Copies the files that a server holds for a backup; returns when the copy is durable.

    Until then, the file BACKUP of the target says that it is not complete, and servers refuse it.

    Args:
        source: `BackupSource.folder`.
        target: where the copy is to be: a folder that does not exist or is empty.
        disk: how to get at both.

    Returns:
        What the backup's file BACKUP says, and how many bytes were copied.

    Raises:
        BackupError: STORAGE_FULL or STORAGE_UNAVAILABLE; what was written is removed.
    """
    disk = disk or Disk()
    facts = read_backup_facts(source)
    if facts is None:
        raise BackupError(Reason.STORAGE_UNAVAILABLE, f"{source} is no source of a backup")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(Reason.STORAGE_UNAVAILABLE, f"{target} exists and is not an empty folder")
    with _remove_on_error(disk, target):
        lengths = {path: _length(source, path, facts) for path in _list_files(source)}
        disk.make_folder(target)
        needed, free = sum(lengths.values()), shutil.disk_usage(target).free
        if needed > free:
            raise BackupError(
                Reason.STORAGE_FULL, f"the backup has {needed} bytes, and {target} has room for {free}"
            )
        _write_file(disk, target / BACKUP, [facts.to_json()])
        disk.sync_folder(target)
        folders = [target / path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_dir()]
        for folder in folders:
            disk.make_folder(folder)
        for path, length in lengths.items():
            place = target / path.relative_to(source)
            _write_file(disk, place, split_blocks(disk.read(path)[:length]))
        for folder in (*reversed(folders), target, target.parent):
            disk.sync_folder(folder)
        facts = replace(facts, is_complete=True)
        write_file_atomically(disk, target / BACKUP, [facts.to_json()])
    return facts, needed


@contextlib.contextmanager
def _remove_on_error(disk: Disk, target: Path) -> Iterator[None]:
    """Converts an error of the disk, and removes what was written."""
    was_there = target.exists()
    try:
        yield
    except (OSError, BackupError) as error:
        with contextlib.suppress(OSError):
            # The file BACKUP last: what is left without it would not be known for what it is.
            rest = [path for path in target.iterdir() if path.name != BACKUP]
            for path in (*rest, target / BACKUP, *(() if was_there else (target,))):
                disk.remove(path)
        if isinstance(error, BackupError):
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = Reason.STORAGE_FULL if is_full else Reason.STORAGE_UNAVAILABLE
        raise BackupError(reason, f"{target} was not completed: {error}") from error


def _list_files(source: Path) -> list[Path]:
    return [path for path in sorted(source.rglob("*")) if path.is_file() and path != source / BACKUP]


def _length(source: Path, path: Path, facts: BackupFacts) -> int:
    return facts.ends.get(str(path.relative_to(source)), path.stat().st_size)


def _write_file(disk: Disk, path: Path, pieces: Iterable[Piece]) -> None:
    """Writes a new file; returns when its content is durable."""
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        end = 0
        for piece in pieces:
            hit_failpoint("during-temp-write")
            begin, end = end, disk.write(fd, [piece], end)
            disk.begin_write_back(fd, begin, end - begin)
        disk.sync(fd)
    finally:
        disk.close(fd)
