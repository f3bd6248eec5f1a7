"""Splitting of long byte sequences into chunks, and reassembly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from optserve._codec.framing import ChunkAhead, ChunkParts, ChunkView

CHUNK_BYTES = 1 << 20


def cut_chunks(
    views: Iterable[memoryview], on_chunk: Callable[[int], object] | None = None, start: int = 0
) -> Iterator[ChunkView | ChunkParts]:
    """Cuts the bytes of all views, one after the other, into chunks.

    Nothing is copied: a chunk that holds bytes of several views has them in parts.

    Args:
        views: the bytes.
        on_chunk: called with the byte count of each chunk.
        start: how many of the first bytes are left out.
    """
    parts: list[memoryview] = []
    offset, size, left_out = start, 0, start
    for whole in views:
        rest = whole[left_out:]
        left_out -= len(whole) - len(rest)
        while len(rest):
            taken, rest = rest[: CHUNK_BYTES - size], rest[CHUNK_BYTES - size :]
            parts.append(taken)
            size += len(taken)
            if size == CHUNK_BYTES:
                if on_chunk is not None:
                    on_chunk(size)
                yield _make_chunk(offset, size, parts)
                offset, size, parts = offset + size, 0, []
    if parts:
        if on_chunk is not None:
            on_chunk(size)
        yield _make_chunk(offset, size, parts)


def _make_chunk(offset: int, size: int, parts: list[memoryview]) -> ChunkView | ChunkParts:
    return ChunkView(offset, parts[0]) if len(parts) == 1 else ChunkParts(offset, size, parts)


class Filling:
    """Reassembly of chunks into several buffers.

    Args:
        pieces: writable, in the order of the bytes.
    """

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._room = memoryview(b"")
        self._missing = sum(map(len, pieces))
        self.received = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything has arrived."""
        return self._missing == 0

    def add_chunk(self, chunk: ChunkView | ChunkAhead) -> int:
        """Puts a chunk into its place, as it arrives, and returns its length.

        Raises:
            ValueError: there is a gap, or more than was announced.
        """
        size, here = chunk.byte_count, chunk.received
        if chunk.byte_offset != self.received or size > self._missing:
            raise ValueError(f"a chunk at {chunk.byte_offset} came where {self.received} was due")
        self.received += size
        self._missing -= size
        left = size
        while left:
            if not len(self._room):
                self._room = next(self._pieces)
            place, self._room = self._room[:left], self._room[left:]
            left -= len(place)
            known = min(len(place), len(here))
            place[:known], here = here[:known], here[known:]
            if known < len(place):
                chunk.receive_rest(place[known:])
        return size


class Joined(Filling):
    """Reassembly of chunks into one buffer.

    Args:
        byte_count: its length.
        buffer: where it lies, uint8 and of that length; memory of its own when None.
    """

    def __init__(self, byte_count: int, buffer: NDArray[np.uint8] | None = None) -> None:
        self.buffer: NDArray[np.uint8] = np.empty(byte_count, np.uint8) if buffer is None else buffer
        super().__init__([self.buffer.data])
