"""Buffers that parameters are received into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optserve._codec.buffer_pool import BufferPool
from optserve._codec.byte_layout import ByteLayout
from optserve._codec.caller_arrays import CallerArrays
from optserve._codec.chunks import Filling
from optserve._codec.dtypes import Array

Into = Mapping[str, Array] | None
"""The caller's arrays by tensor name; None for new ones."""


class Reception(Filling):
    """Parameters that arrive in chunks.

    Args:
        pieces: writable, in the order of the bytes.
        arrays: returns the arrays by tensor name when all bytes are there.
    """

    def __init__(self, pieces: Sequence[memoryview], arrays: Callable[[], dict[str, Array]]) -> None:
        super().__init__(pieces)
        self.complete_arrays = arrays


class ReceiveBuffers:
    """The buffers of one result after another, for one thread at a time."""

    def __init__(self) -> None:
        self._pool = BufferPool()
        self._caller: CallerArrays | None = None

    def begin_reception(self, layout: ByteLayout, into: Into) -> Reception:
        """Returns where the bytes of a layout go."""
        if into is None:
            buffer = self._pool.take(layout.byte_count)
            return Reception([buffer.data], lambda: layout.arrays(buffer))
        caller = self._get_caller_arrays(into, layout)
        return Reception(caller.pieces, caller.complete_arrays)

    def arrays_from_bytes(self, layout: ByteLayout, data: memoryview, into: Into) -> dict[str, Array]:
        """Returns the arrays of bytes that are all there, and few."""
        if into is not None:
            return self._get_caller_arrays(into, layout).fill(data)
        return layout.arrays(np.frombuffer(data, np.uint8).copy())

    def _get_caller_arrays(self, into: Mapping[str, Array], layout: ByteLayout) -> CallerArrays:
        if self._caller is None or not self._caller.matches(into, layout):
            self._caller = CallerArrays(into, layout)
        return self._caller
