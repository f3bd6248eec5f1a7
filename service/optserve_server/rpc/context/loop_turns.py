"""Turns of the event loop, which namespaces share by weight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from optserve_server.resources.fair_queue import FairQueue, Flow

SHARED_PERIOD_S = 1.0
"""Seconds without messages of a second namespace after which one has the loop to itself again."""

UNITS_PER_ITERATION = 2.0
"""Work that is begun in one iteration of the loop: iterations have a cost, work delays what has arrived."""

BYTES_PER_UNIT = 256 << 10
"""Bytes of a message that take the loop about as long as a message without bytes, which is a unit of work."""


class LoopTurns:
    """Admits messages to the event loop in the order of a fair queue.

    The loop runs what is ready in the order of its arrival, so a namespace with many streams would have
    most of it. Here little work is begun in each iteration, and the next when the iterations for a long
    message are over. A namespace that had less than others is not kept waiting.

    Attributes:
        alone: the only namespace that sends messages, which needs no turns; None if there are several.
    """

    def __init__(self) -> None:
        self._queue: FairQueue[tuple[asyncio.Future[None], float]] = FairQueue()
        self.alone: Flow | None = None
        self._seen: set[Flow] = set()
        self._is_shared = self._is_passing = False
        self._credit = 0.0

    def take(self, flow: Flow, byte_count: int = 0) -> Awaitable[None] | None:
        """Asks for a turn, to handle one message.

        Args:
            flow: whose message it is.
            byte_count: length of the message.

        Returns:
            What to await before the message is handled; None if it is its turn.
        """
        if flow is self.alone:
            return None
        if not self._is_shared:
            if self.alone is None:
                self.alone = flow
                return None
            self._share(self.alone)
        self._seen.add(flow)
        cost = 1 + byte_count / BYTES_PER_UNIT
        loop = asyncio.get_running_loop()
        if not self._is_passing:
            self._is_passing, self._credit = True, UNITS_PER_ITERATION
            loop.call_soon(self._pass_on)
        elif not self._queue.is_due(flow):
            turn = loop.create_future()
            self._queue.push(flow, (turn, cost))
            return turn
        self._begin(flow, cost)
        return None

    def _begin(self, flow: Flow | None, cost: float) -> None:
        self._queue.charge(flow, cost)
        self._credit -= cost

    def _share(self, flow: Flow) -> None:
        self.alone, self._is_shared, self._seen = None, True, {flow}
        asyncio.get_running_loop().call_later(SHARED_PERIOD_S, self._end_period)

    def _end_period(self) -> None:
        """Lets a namespace have the loop to itself if it alone sent messages."""
        if len(self._seen) > 1 or self._queue:
            self._seen.clear()
            asyncio.get_running_loop().call_later(SHARED_PERIOD_S, self._end_period)
        else:
            self.alone, self._is_shared = next(iter(self._seen), None), False

    def _pass_on(self) -> None:
        """Gives the next turns; called once in each iteration while messages wait or are being handled."""
        self._credit = min(self._credit + UNITS_PER_ITERATION, UNITS_PER_ITERATION)
        while self._credit > 0 and (taken := self._queue.pop()) is not None:
            flow, (turn, cost) = taken
            if not turn.done():  # its call may have been cancelled
                self._begin(flow, cost)
                turn.set_result(None)
        self._is_passing = self._credit < UNITS_PER_ITERATION or len(self._queue) > 0
        if self._is_passing:  # called after the tasks that this wakes
            asyncio.get_running_loop().call_soon(self._pass_on)
