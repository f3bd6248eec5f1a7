"""Weighted fair queue: those that share a resource are served in turn, by weight, however much each asks for.

Start-time fair queueing (Goyal, Vin and Cheng, 1996). A flow's virtual time grows by cost / weight of
what it was served, and the waiting flow with the least virtual time is served next. A flow that asked for
nothing for a while begins at the virtual time of those that were served meanwhile, so it is served soon, but
cannot save up what it did not use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Flow(Protocol):
    """One of those that share a resource; compared by identity.

    Attributes:
        weight: its share beside those of the others.
    """

    weight: float


class _Lane(Generic[T]):
    """What a flow waits for, and its virtual time."""

    def __init__(self, time: float) -> None:
        self.time = time
        self.items: deque[T] = deque()


class FairQueue(Generic[T]):
    """Items of several flows. Not thread-safe."""

    def __init__(self) -> None:
        self._lanes: dict[Flow | None, _Lane[T]] = {}
        self._clock = 0.0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, flow: Flow | None, item: T) -> None:
        """Adds an item behind those of its flow; None is the server's own flow."""
        lane = self._lanes.get(flow)
        if lane is None:
            lane = self._lanes[flow] = _Lane(self._clock)
        elif not lane.items:
            lane.time = max(lane.time, self._clock)
        lane.items.append(item)
        self._length += 1

    def is_due(self, flow: Flow | None) -> bool:
        """Whether an item of a flow would be next: it has none waiting, and had no more than others."""
        lane = self._lanes.get(flow)
        return lane is None or (not lane.items and lane.time <= self._clock)

    def pop(self, is_eligible: Callable[[Flow | None], bool] | None = None) -> tuple[Flow | None, T] | None:
        """Removes and returns the next item with its flow; None if there is none.

        Args:
            is_eligible: says whether a flow may be served now.
        """
        best: _Lane[T] | None = None
        owner: Flow | None = None
        for flow, lane in tuple(self._lanes.items()):
            if not lane.items:
                if lane.time <= self._clock:  # it begins there again
                    del self._lanes[flow]
            elif (best is None or lane.time < best.time) and (is_eligible is None or is_eligible(flow)):
                best, owner = lane, flow
        if best is None:
            return None
        self._clock = max(self._clock, best.time)
        self._length -= 1
        return owner, best.items.popleft()

    def charge(self, flow: Flow | None, cost: float) -> None:
        """Counts what a flow was served; in units that are the same for all flows."""
        lane = self._lanes.get(flow)
        if lane is None:
            lane = self._lanes[flow] = _Lane(self._clock)
        lane.time += cost / (1.0 if flow is None else flow.weight)
