"""Disks that fail, are full or are slow."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from optserve_server.storage.files import Disk, Piece


class FailingDisk(Disk):
    """A disk that fails on demand.

    Attributes:
        failing: error number by operation: ``write``, ``sync``, ``sync_folder``, ``truncate`` or
            ``open``.
        half: whether a failing write leaves the first half of its first piece.
    """

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.half = True

    def _check(self, operation: str) -> None:
        if operation in self.failing:
            number = self.failing[operation]
            raise OSError(number, os.strerror(number))

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._check("open")
        return super().open(path, flags)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        if "write" in self.failing and self.half:
            first = memoryview(pieces[0]).cast("B")
            super().write(fd, [first[: len(first) // 2]], offset)
        self._check("write")
        return super().write(fd, pieces, offset)

    def sync(self, fd: int) -> None:
        self._check("sync")
        super().sync(fd)

    def sync_folder(self, folder: Path) -> None:
        self._check("sync_folder")
        super().sync_folder(folder)

    def truncate(self, fd: int, size: int) -> None:
        self._check("truncate")
        super().truncate(fd, size)


class FullDisk(Disk):
    """A disk that takes a limited number of bytes from now on.

    Attributes:
        left: bytes.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            offset = super().write(fd, [view[: self.left]], offset)
            if len(view) > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= len(view)
        return offset


class SlowDisk(Disk):
    """A disk with slow syncs.

    Attributes:
        seconds: how long.
        syncs: how often it did.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.syncs = 0

    def sync(self, fd: int) -> None:
        time.sleep(self.seconds)
        self.syncs += 1
        super().sync(fd)


class GatedDisk(Disk):
    """A disk that holds up one sync.

    Attributes:
        gated: whether the next one is held up.
        reached: set when it is.
        opened: lets it go on.
    """

    def __init__(self) -> None:
        self.gated = False
        self.reached, self.opened = threading.Event(), threading.Event()

    def sync(self, fd: int) -> None:
        gated, self.gated = self.gated, False
        if gated:
            self.reached.set()
            self.opened.wait(10)
        super().sync(fd)
