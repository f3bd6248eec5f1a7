"""Parameters of a session in memory that other processes read while steps change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optserve_server.shared_memory.shared_block import SharedBlock
from optserve_server.state.arenas import Arenas
from optserve_server.state.layout import Layout, TensorEntry

PAGE = 4096
"""Where an arena may begin; the first page holds the counters."""


class LiveParameters:
    """One block for the parameters of all arenas, read-only for other processes.

    The block begins with two counters (uint64): changes begun, and changes completed. A reader that
    copies while they are equal, and finds them as they were afterwards, has a copy of one
    moment. There is one for all clients of a session, because all see the same.

    Args:
        sizes: the number of elements of each arena.

    Attributes:
        block: the memory.
        arenas: the arrays in it, by dtype.

    Raises:
        OSError: there is no memory for it.
    """

    def __init__(self, sizes: Mapping[np.dtype[Any], int]) -> None:
        self._starts: dict[np.dtype[Any], int] = {}
        end = PAGE
        for dtype, size in sizes.items():
            self._starts[dtype] = end
            end += -(-size * dtype.itemsize // PAGE) * PAGE
        self.block = SharedBlock(end, writable=False)
        self._counters = self.block.view(0, np.dtype(np.uint64), 2).data
        self.arenas: dict[np.dtype[Any], npt.NDArray[Any]] = {
            dtype: self.block.view(self._starts[dtype], dtype, size) for dtype, size in sizes.items()
        }

    @property
    def change_count(self) -> int:
        """How many changes were completed."""
        change: int = self._counters[1]
        return change

    def byte_offset(self, entry: TensorEntry) -> int:
        """The offset of a tensor in the block, in bytes."""
        return self._starts[entry.dtype] + entry.start * entry.dtype.itemsize

    def begin_change(self) -> None:
        """Tells readers that what they read from now on is of no one moment."""
        self._counters[0] += 1

    def complete_change(self) -> None:
        """Tells them that it is again; not of a change that failed half-way."""
        self._counters[1] = self._counters[0]


class LiveSession(Protocol):
    """A session whose parameters can be moved into a shared block."""

    layout: Layout
    arenas: Arenas
    live: LiveParameters | None


def move_to_shared_memory(session: LiveSession) -> LiveParameters:
    """Moves a session's parameters to where others can read them, unless they are there.

    Raises:
        OSError: there is no memory for it; nothing has changed.
    """
    if session.live is None:
        live = LiveParameters(session.layout.arena_sizes)
        session.arenas.move_to(live.arenas)
        session.live = live
    return session.live
