"""Pool of buffers for large results; a buffer is reused when nothing refers to it."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from optserve._codec.allocator import keep_freed_memory

LARGE_BYTES = 1 << 20
"""Smaller buffers come from memory that the allocator has at hand."""


def _count_references(buffers: list[NDArray[np.uint8]]) -> int:
    """Number of references to the last of a list, as `BufferPool.take` counts them."""
    for buffer in buffers:
        count = sys.getrefcount(buffer)
    return count


UNUSED_REFERENCES = _count_references([np.empty(1, np.uint8)])
HAS_REFERENCE_COUNTS = (
    sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
)
"""Whether the reference count of an object shows that nothing else refers to it."""


class BufferPool:
    """Two buffers that alternate. The first touch of fresh memory costs ten times the copy into it.

    A caller who asks for results again and again keeps one while the next arrives. A buffer that is
    still referred to, in whole or through any view, is left alone.
    """

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, byte_count: int) -> NDArray[np.uint8]:
        """Returns a buffer (uint8, [byte_count]) of any content that nothing else refers to."""
        if byte_count < LARGE_BYTES:
            return np.empty(byte_count, np.uint8)
        keep_freed_memory()
        if not HAS_REFERENCE_COUNTS:
            return np.empty(byte_count, np.uint8)
        for buffer in self._buffers:
            if len(buffer) == byte_count and sys.getrefcount(buffer) == UNUSED_REFERENCES:
                return buffer
        buffer = np.empty(byte_count, np.uint8)
        self._buffers = [*(last for last in self._buffers[-1:] if len(last) == byte_count), buffer]
        return buffer
