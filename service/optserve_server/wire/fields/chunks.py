"""Chunks of bytes: assembly into a buffer, and splitting of a buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve._codec.framing import ChunkAhead, ChunkView
from optserve_server.errors import DomainError, Reason


class Filler:
    """Fills a buffer from chunks that follow each other without gaps.

    Args:
        buffer: where the bytes go (uint8).
    """

    def __init__(self, buffer: npt.NDArray[np.uint8]) -> None:
        self._buffer = buffer
        self._filled = 0

    @property
    def filled(self) -> int:
        """How many bytes have arrived."""
        return self._filled

    @property
    def is_complete(self) -> bool:
        """Whether every byte has arrived."""
        return self._filled == self._buffer.size

    @property
    def received(self) -> npt.NDArray[np.uint8]:
        """The bytes that have arrived."""
        return self._buffer[: self._filled]

    def resume_with(self, earlier: npt.NDArray[np.uint8], size: int) -> None:
        """Begins with bytes that arrived earlier.

        Args:
            earlier: what has arrived.
            size: how much of it the client counts on.

        Raises:
            DomainError: STREAM_PROTOCOL at ``resume_from`` if that is more than has arrived.
        """
        if size > min(earlier.size, self._buffer.size):
            raise DomainError(
                Reason.STREAM_PROTOCOL,
                f"resume_from is {size}, but {earlier.size} bytes of the upload have arrived",
                field="resume_from",
                metadata={"expected": earlier.size, "actual": size},
            )
        self._buffer[:size] = earlier[:size]
        self._filled = size

    def discard_chunk(self, chunk: ChunkAhead) -> None:
        """Counts the last chunk as missing: it did not arrive as a whole."""
        self._filled -= chunk.byte_count

    def add_chunk(self, chunk: ChunkView | None) -> None:
        """Puts the chunk of a message into its place; a message without one adds nothing.

        Raises:
            DomainError: STREAM_PROTOCOL at ``chunk.byte_offset`` where it does not follow
                the one before, BYTE_LENGTH_MISMATCH at ``chunk.data`` where it holds more
                than is missing.
        """
        if chunk is not None:
            self.reserve_place(chunk)[:] = chunk.data

    def reserve_place(self, chunk: ChunkView | ChunkAhead) -> memoryview:
        """The place of a chunk, which from now on counts as filled; raises as `add_chunk`."""
        start, stop = self._filled, self._filled + chunk.byte_count
        if chunk.byte_offset != start:
            raise DomainError(
                Reason.STREAM_PROTOCOL,
                f"the chunk starts at byte {chunk.byte_offset}, but byte {start} comes next",
                field="chunk.byte_offset",
                metadata={"expected": start, "actual": chunk.byte_offset},
            )
        if stop > self._buffer.size:
            raise self._byte_count_error(Reason.BYTE_LENGTH_MISMATCH, stop, "chunk.data")
        self._filled = stop
        return self._buffer[start:stop].data

    def truncation_error(self) -> DomainError:
        """The error of a stream that ends here."""
        return self._byte_count_error(Reason.STREAM_TRUNCATED, self._filled, "chunk")

    def interruption_error(self, field: str) -> DomainError:
        """The error of a message that has ``field``, which may not come before the last byte."""
        return self._byte_count_error(Reason.STREAM_PROTOCOL, self._filled, field)

    def _byte_count_error(self, reason: Reason, actual: int, field: str) -> DomainError:
        expected = self._buffer.size
        return DomainError(
            reason,
            f"{actual} bytes were sent where {expected} belong",
            field=field,
            metadata={"expected": expected, "actual": actual},
        )


def split_chunks(buffer: npt.NDArray[Any], chunk_bytes: int) -> Iterator[ChunkView]:
    """Cuts a buffer (uint8) into views of up to ``chunk_bytes`` bytes; an empty one into none."""
    for start in range(0, buffer.size, chunk_bytes):
        yield ChunkView(start, buffer[start : start + chunk_bytes].data)
