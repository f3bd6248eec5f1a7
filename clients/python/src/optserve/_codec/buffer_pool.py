"""Memory for large results, used again once nobody holds it."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from optserve._codec.allocator import expect_large_messages

LARGE = 1 << 20
"""Smaller buffers come from memory that the allocator has at hand."""


def _references(kept: list[NDArray[np.uint8]]) -> int:
    """How many references there are to the last of a list, as `Recycler.take` counts them."""
    for buffer in kept:
        count = sys.getrefcount(buffer)
    return count


ONLY_OURS = _references([np.empty(1, np.uint8)])
COUNTS = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether counted references tell that nobody else holds an object."""


class Recycler:
    """Gives out buffers. The first touch of fresh memory costs ten times the copy into it.

    A caller who asks for results again and again holds one while the next arrives, so two
    buffers take turns. One that is still held, in whole or through any view, is left alone.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []

    def take(self, byte_count: int) -> NDArray[np.uint8]:
        """A buffer of so many bytes, of any content, that nobody else holds."""
        if byte_count < LARGE:
            return np.empty(byte_count, np.uint8)
        expect_large_messages()
        if not COUNTS:
            return np.empty(byte_count, np.uint8)
        for buffer in self._kept:
            if len(buffer) == byte_count and sys.getrefcount(buffer) == ONLY_OURS:
                return buffer
        buffer = np.empty(byte_count, np.uint8)
        self._kept = [*(kept for kept in self._kept[-1:] if len(kept) == byte_count), buffer]
        return buffer
