"""Garbage collection that does not hold the interpreter for long."""

from __future__ import annotations

import gc
import time

_NEVER = 1_000_000
"""Collections of the middle generation after which Python looks at all objects unasked."""

_last_collection = 0.0


def defer_full_collections() -> None:
    """Leaves out what has been made so far, and has full collections made by `collect_garbage` alone.

    Python collects everything when the number of objects has grown by a quarter. With sessions of many
    tensors, that holds the interpreter for a tenth of a second, in the middle of a request. Sessions and
    buffers are released by their reference counts; only cycles, which are rare, wait for a collection.
    """
    collect_garbage(0.0)
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)


def collect_garbage(interval: float) -> bool:
    """Collects everything, unless that was done within the last ``interval`` seconds.

    Returns:
        Whether it was done now.
    """
    global _last_collection
    now = time.monotonic()
    if now - _last_collection < interval:
        return False
    _last_collection = now
    gc.collect()
    return True
