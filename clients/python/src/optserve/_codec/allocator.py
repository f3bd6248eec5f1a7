"""Settings of glibc's allocator that keep the memory of 1 MiB messages between uses."""

from __future__ import annotations

import functools

import numpy as np

LEARNS_FROM = 31 << 20
"""glibc learns from blocks up to 32 MiB."""


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next message, instead of giving it back.

    It keeps blocks up to the size of the largest one that was ever freed, and at its end twice
    as much (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). A program that once freed an
    array of 31 MiB has taught it; here one is freed that was never touched, so it costs
    nothing. Without this, every message of a stream touches fresh pages, which takes longer
    than all that the client does with it. Other allocators do not care.
    """
    np.empty(LEARNS_FROM, np.uint8)
