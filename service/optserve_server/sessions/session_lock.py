"""Lock of a session."""

from __future__ import annotations

import asyncio
from typing import Literal


class SessionLock(asyncio.Lock):
    """Lock of a session, held by what waits for something while nothing else may touch the session.

    Attributes:
        is_held: whether it is held. What waits for nothing need not take a lock that is free.
    """

    is_held = False

    async def acquire(self) -> Literal[True]:
        """Waits until it is free, and takes it."""
        await super().acquire()
        self.is_held = True
        return True

    def release(self) -> None:
        """Lets the next one take it."""
        self.is_held = False
        super().release()
