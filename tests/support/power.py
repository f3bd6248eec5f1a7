"""A disk that forgets, when the power fails, what was not synced."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from optserve_server.storage.files import Disk, Piece

_Write = tuple[int, bytes]
"""Where, and what; a cut is at its length, with nothing."""


class ForgetfulDisk(Disk):
    """Knows what would still be there after a power failure.

    A file's content counts from its sync on, a name from the sync of its folder on. Of what was
    written since, any part may be there as well, in any order.

    Args:
        moment: called before each sync, while it is not done.
    """

    def __init__(self, moment: Callable[[], None]) -> None:
        self._moment = moment
        self._content: dict[int, bytes] = {}
        self._since: dict[int, list[_Write]] = {}
        self._names: dict[int, dict[str, tuple[bool, int]]] = {}
        self._files: dict[int, int] = {}
        self._count = itertools.count()
        self._lock = threading.RLock()

    def open(self, path: Path, flags: int) -> int:
        new = not path.exists()
        fd = super().open(path, flags)
        if new:
            # The system may give it the number of a file that is gone, but not for good yet.
            self._files[os.fstat(fd).st_ino] = next(self._count)
        elif flags & os.O_TRUNC:
            self._note(fd, (0, b""))
        return fd

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> int:
        self._note(fd, (offset, b"".join(bytes(piece) for piece in pieces)))
        return super().write(fd, pieces, offset)

    def truncate(self, fd: int, size: int) -> None:
        self._note(fd, (size, b""))
        super().truncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        if os.fstat(fd).st_size < size:
            self._note(fd, (size, b""))
        super().allocate(fd, size)

    def sync(self, fd: int) -> None:
        self._moment()
        super().sync(fd)
        with self._lock:
            number = self._files.get(os.fstat(fd).st_ino, -1)
            for write in self._since.pop(number, []):
                self._content[number] = _apply_write(self._content.get(number, b""), write)

    def make_folder(self, folder: Path) -> None:
        new = not folder.exists()
        super().make_folder(folder)
        if new:
            self._names.pop(folder.stat().st_ino, None)

    def sync_folder(self, folder: Path) -> None:
        self._moment()
        super().sync_folder(folder)
        with self._lock, os.scandir(folder) as entries:
            found = {
                entry.name: (True, entry.inode())
                if entry.is_dir()
                else (False, self._files.get(entry.inode(), -1))
                for entry in entries
            }
            self._names[folder.stat().st_ino] = found

    def leave(self, root: Path, target: Path, rng: random.Random) -> None:
        """Puts into ``target`` what a power failure would leave of ``root`` now."""
        with self._lock:
            self._put(root.stat().st_ino, target, rng)

    def _put(self, folder: int, target: Path, rng: random.Random) -> None:
        target.mkdir()
        for name, (is_folder, number) in self._names.get(folder, {}).items():
            if is_folder:
                self._put(number, target / name, rng)
                continue
            content = self._content.get(number, b"")
            for write in self._since.get(number, []):
                if rng.random() < 0.5:
                    start, data = write
                    written = len(data) if _is_atomic(write) else rng.randint(0, len(data))
                    content = _apply_write(content, (start, data[:written])) if data else content
            (target / name).write_bytes(content)

    def _note(self, fd: int, write: _Write) -> None:
        with self._lock:
            self._since.setdefault(self._files.get(os.fstat(fd).st_ino, -1), []).append(write)


def _is_atomic(write: _Write) -> bool:
    """Whether a write lies within one aligned cell of 64 bytes, of which disks write none by half."""
    start, data = write
    return start // 64 == (start + len(data) - 1) // 64


def _apply_write(content: bytes, write: _Write) -> bytes:
    start, data = write
    if not data:
        return content[:start] + bytes(max(0, start - len(content)))
    content = content + bytes(max(0, start - len(content)))
    return content[:start] + data + content[start + len(data) :]
