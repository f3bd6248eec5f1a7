"""Access to the disk, in one place; tests replace `Disk` by one that fails."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from optserve_server.resources.descriptors import STORAGE_RESERVE
from optserve_server.storage.failpoints import hit_failpoint

Piece: TypeAlias = bytes | memoryview
"""Bytes to write, from where they lie."""

BLOCK = 8 << 20
"""Bytes after which the disk begins to write what the kernel has taken."""

_PIECES = 512
"""Pieces of one vectored write, below every system's IOV_MAX."""

_WRITE_BACK = 2  # SYNC_FILE_RANGE_WRITE: begin, and wait for nothing


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()


def _open(path: Path, flags: int, mode: int = 0) -> int:
    return STORAGE_RESERVE.open_file(lambda: os.open(path, flags | os.O_CLOEXEC, mode))


def list_folder(folder: Path) -> list[Path]:
    """What is in a folder, in the order of names."""
    return [folder / name for name in sorted(STORAGE_RESERVE.run(lambda: os.listdir(folder)))]


class Disk:
    """Files and folders. All methods raise OSError as the operating system does."""

    def open(self, path: Path, flags: int) -> int:
        """Opens a file; new ones are for the server's own user alone."""
        return _open(path, flags, 0o600)

    def close(self, fd: int) -> None:
        """Closes a file."""
        STORAGE_RESERVE.close_file(fd)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        """Writes all of ``pieces`` from ``offset`` on, and returns where they end."""
        rest = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while rest:
            written = os.pwritev(fd, rest[:_PIECES], offset)
            offset += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest and written:
                rest[0] = rest[0][written:]
        return offset

    def begin_write_back(self, fd: int, offset: int, count: int) -> None:
        """Lets the disk begin with what was written, so that it works while more is made ready."""
        if _sync_file_range is not None:
            _sync_file_range(fd, offset, count, _WRITE_BACK)  # a hint; its failure shows in sync

    def sync(self, fd: int) -> None:
        """Returns when the file's content is durable."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cuts a file off."""
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        """Lets a file have at least ``size`` bytes on the disk, zeros where it was shorter."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        elif (missing := size - os.fstat(fd).st_size) > 0:
            self.write(fd, [bytes(missing)], size - missing)

    def replace(self, source: Path, target: Path) -> None:
        """Renames at once, over what is there."""
        os.replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Returns when the names in a folder are durable."""
        fd = _open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            STORAGE_RESERVE.close_file(fd)

    def make_folder(self, folder: Path) -> None:
        """Makes a folder, unless it is there."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Removes a file or a folder with all in it; nothing if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                STORAGE_RESERVE.run(lambda: shutil.rmtree(path))
            else:
                path.unlink()

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name."""
        os.link(source, target)

    def read(self, path: Path) -> memoryview:
        """A file's content, mapped rather than read where it is not empty."""
        fd = _open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ) if size else b"")
        finally:
            STORAGE_RESERVE.close_file(fd)


class ReadOnlyDisk(Disk):
    """A disk that stays as it is: what would change it is left out."""

    def open(self, path: Path, flags: int) -> int:
        """Opens a file for reading; nothing instead of one that does not exist."""
        if flags & os.O_CREAT and not path.exists():
            path = Path(os.devnull)
        return super().open(path, os.O_RDONLY)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        """Writes nothing."""
        return offset + sum(memoryview(piece).nbytes for piece in pieces)

    def sync(self, fd: int) -> None:
        """Does nothing."""

    def sync_folder(self, folder: Path) -> None:
        """Does nothing."""

    def truncate(self, fd: int, size: int) -> None:
        """Does nothing."""

    def allocate(self, fd: int, size: int) -> None:
        """Does nothing."""

    def replace(self, source: Path, target: Path) -> None:
        """Does nothing."""

    def make_folder(self, folder: Path) -> None:
        """Does nothing."""

    def remove(self, path: Path) -> None:
        """Does nothing."""

    def link(self, source: Path, target: Path) -> None:
        """Does nothing."""


def rename_durably(disk: Disk, source: Path, target: Path) -> None:
    """Renames so that it is still so after a power loss."""
    hit_failpoint("before-rename")
    disk.replace(source, target)
    hit_failpoint("after-rename")
    hit_failpoint("before-directory-fsync")
    disk.sync_folder(target.parent)
    if source.parent != target.parent:
        disk.sync_folder(source.parent)
    hit_failpoint("after-directory-fsync")


_counter = itertools.count()


class TemporaryFile:
    """A file that takes its place when it is complete and durable.

    As a context it is written by the block, and removed if that fails.

    Args:
        disk: where.
        path: its place.

    Attributes:
        path: the same.
        temporary: where it is until then.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        hit_failpoint("before-temp-write")
        self._disk = disk
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{next(_counter)}.new")
        self._end = 0
        self._pushed = 0
        self._fd = disk.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write(self, piece: Piece) -> None:
        """Appends."""
        for block in split_blocks(piece):
            hit_failpoint("during-temp-write")
            self._end = self._disk.write(self._fd, [block], self._end)
            if self._end - self._pushed >= BLOCK:
                self._disk.begin_write_back(self._fd, self._pushed, self._end - self._pushed)
                self._pushed = self._end

    def __enter__(self) -> TemporaryFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):
                self.abandon()

    def sync_and_close(self) -> None:
        """Makes it durable where it is, complete; if that fails, nothing is left."""
        with self:
            hit_failpoint("after-temp-write")
            self._disk.sync(self._fd)
            self._close_descriptor()

    def move_into_place(self) -> None:
        """Makes it durable in its place; if that fails, nothing is left."""
        self.sync_and_close()
        with self:
            rename_durably(self._disk, self.temporary, self.path)

    def abandon(self) -> None:
        """Removes what was written."""
        self._close_descriptor()
        self._disk.remove(self.temporary)

    def _close_descriptor(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)


def write_file_atomically(disk: Disk, path: Path, pieces: Iterable[Piece]) -> None:
    """Writes a file, or leaves what was there."""
    with TemporaryFile(disk, path) as file:
        for piece in pieces:
            file.write(piece)
        file.move_into_place()


def split_blocks(piece: Piece) -> Iterator[memoryview]:
    """A piece in blocks of `BLOCK` bytes."""
    view = memoryview(piece).cast("B")
    for start, stop in itertools.pairwise([*range(0, len(view), BLOCK), len(view)]):
        yield view[start:stop]
