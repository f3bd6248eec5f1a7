"""Measurement of the event loop's lag."""

from __future__ import annotations

import asyncio
from collections import deque

INTERVAL_S = 0.05
"""Between two measurements."""

WINDOW_S = 60.0


class LoopLag:
    """Lateness of a timer on the event loop: how long something held the loop."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=int(WINDOW_S / INTERVAL_S))

    @property
    def worst(self) -> float:
        """Greatest lateness of the last minute, in seconds."""
        return max(self._lags, default=0.0)

    async def measure(self) -> None:
        """Measures until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self._lags.append(max(0.0, loop.time() - due))
