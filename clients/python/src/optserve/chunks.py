"""Long runs of bytes as chunks: the only file that knows how they are cut and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from optserve.framing import ChunkView

CHUNK_BYTES = 1 << 20


def cut(views: Iterable[memoryview], told: Callable[[int], object]) -> Iterator[ChunkView]:
    """Cuts the bytes of all views, one after the other, into chunks.

    Nothing is copied but where a chunk holds bytes of several views.

    Args:
        views: the bytes.
        told: is called with the length of each chunk.
    """
    parts: list[memoryview] = []
    offset = size = 0
    for whole in views:
        rest = whole
        while len(rest):
            taken, rest = rest[: CHUNK_BYTES - size], rest[CHUNK_BYTES - size :]
            parts.append(taken)
            size += len(taken)
            if size == CHUNK_BYTES:
                told(size)
                yield ChunkView(offset, _joined(parts))
                offset, size, parts = offset + size, 0, []
    if parts:
        told(size)
        yield ChunkView(offset, _joined(parts))


def _joined(parts: list[memoryview]) -> memoryview:
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


class Joined:
    """A run of bytes that arrives in chunks.

    Args:
        byte_count: its length.
    """

    def __init__(self, byte_count: int) -> None:
        self.buffer: NDArray[np.uint8] = np.empty(byte_count, np.uint8)
        self.received = 0

    @property
    def whole(self) -> bool:
        """Whether everything has arrived."""
        return self.received == len(self.buffer)

    def add(self, chunk: ChunkView) -> int:
        """Puts a chunk into its place and returns its length.

        Raises:
            ValueError: there is a gap, or more than was announced.
        """
        data = np.frombuffer(chunk.data, np.uint8)
        end = self.received + len(data)
        if chunk.byte_offset != self.received or end > len(self.buffer):
            raise ValueError(f"a chunk at {chunk.byte_offset} came where {self.received} was due")
        self.buffer[self.received : end] = data
        self.received = end
        return len(data)
