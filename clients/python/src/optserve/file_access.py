"""Files to read and write: paths, open files, and URLs through fsspec."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

FileLike: TypeAlias = str | os.PathLike[str] | IO[bytes]
"""A path, a URL such as ``s3://bucket/file`` (which needs fsspec), or a file opened for bytes."""


@contextlib.contextmanager
def open_to_write(place: FileLike) -> Iterator[IO[bytes]]:
    """Opens a file to write to. A path is replaced when the block has ended without an error.

    Raises:
        ImportError: the place is a URL and fsspec is not installed.
        OSError: it cannot be written.
    """
    if not isinstance(place, str | os.PathLike):
        yield place
        return
    if _is_url(place):
        with _open_with_fsspec(place, "wb") as file:
            yield file
        return
    path = Path(place)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def open_to_read(place: FileLike) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a file to read from; yields it and the number of bytes that are left in it.

    Raises:
        ImportError: the place is a URL and fsspec is not installed.
        OSError: it cannot be read.
    """
    if not isinstance(place, str | os.PathLike):
        yield place, _count_remaining(place)
        return
    with _open_with_fsspec(place, "rb") if _is_url(place) else Path(place).open("rb") as file:
        yield file, _count_remaining(file)


def lock_exclusively(path: Path) -> IO[bytes]:
    """Opens a file that no other process can lock until this one closes it or ends (POSIX only).

    Raises:
        RuntimeError: another process has locked it.
        OSError: it cannot be opened.
    """
    file = path.open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RuntimeError(f"{path.parent} is in use by another process") from None
    return file


def _is_url(place: str | os.PathLike[str]) -> bool:
    return isinstance(place, str) and "://" in place


def _open_with_fsspec(place: str | os.PathLike[str], mode: str) -> Any:
    import fsspec  # an extra

    return fsspec.open(place, mode)


def _count_remaining(file: IO[bytes]) -> int:
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return end - position
