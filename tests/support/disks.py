"""Disks that fail, are full or are slow."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

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


FILLER = "filler"
"""Name of the file that uses up a file system."""

SMALL_BYTES = 12 << 20
"""Size of a file system that `small_filesystem` makes; ext4 and its journal need some of it."""


@contextlib.contextmanager
def small_filesystem(kind: str) -> Iterator[Path]:
    """Mounts a file system of `SMALL_BYTES`; arguments as of `mount_filesystem`.

    The test is skipped if that is not permitted, or tools are missing; in CI, that is a failure.
    """
    with mount_filesystem(kind) as root:
        if root is None:
            pytest.skip(f"this machine does not mount {kind}")
        yield root


def list_filesystems() -> list[str]:
    """Kinds of file systems to test on: xfs only if the kernel has it built in or loaded."""
    has_xfs = "\txfs\n" in Path("/proc/filesystems").read_text(encoding="ascii")
    return ["tmpfs", "ext4", *(["xfs"] if has_xfs else [])]


@contextlib.contextmanager
def mount_filesystem(kind: str, size: int = SMALL_BYTES) -> Iterator[Path | None]:
    """Mounts a file system; None if that is not permitted here, or its tools are not installed.

    Args:
        kind: ``tmpfs``, ``ext4`` or ``xfs``, which has 320 MiB at least.
        size: its size in bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        image, root = Path(folder, "image"), Path(folder, "root")
        root.mkdir()
        commands = [["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(root)]]
        if kind != "tmpfs":
            with image.open("wb") as file:
                file.truncate(size if kind == "ext4" else max(size, 320 << 20))
            commands = [[f"mkfs.{kind}", "-q", str(image)], ["mount", "-o", "loop", str(image), str(root)]]
        for command in commands:
            if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
                yield None
                return
        try:
            yield root
        finally:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


def fill_up(path: Path) -> None:
    """Writes a file until its file system is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@contextlib.contextmanager
def fill(root: Path) -> Iterator[None]:
    """Uses up every byte of a file system until the block ends."""
    path = root / FILLER
    fill_up(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


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
