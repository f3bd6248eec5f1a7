"""Settings of glibc's allocator for a server that receives and sends messages of 1 MiB."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""

KEPT = 32 << 20
"""Bytes that may stay with the process when they are freed."""

MAPPED = 4 << 20
"""Bytes from which a block is mapped, and given back when it is freed: whatever is no message."""

ARENAS = 1
"""Heaps: each would keep what it has seen, and a message be freed in another than it came from."""


def configure_malloc() -> None:
    """Lets freed messages be used again, where the C library is glibc.

    By default it returns each freed mebibyte to the system, and every message would touch fresh pages,
    which takes longer than all that is done with them. Blocks larger than messages, such as a
    session's arrays, go back to the system as soon as they are freed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for parameter, value in ((M_MMAP_THRESHOLD, MAPPED), (M_TRIM_THRESHOLD, KEPT), (M_ARENA_MAX, ARENAS)):
        mallopt(parameter, value)
