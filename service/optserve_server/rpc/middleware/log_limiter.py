"""Rate limit of log lines."""

from __future__ import annotations

import time

LINES_PER_SECOND = 20.0
"""Lines of one kind in the long run."""

BURST = 100
"""Lines of one kind at once."""


class LogLimiter:
    """Token bucket by kind of line, so that a flood of refused calls is not a flood of log lines."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}  # lines that are left, and when that was
        self._suppressed: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """Admits a line.

        Args:
            kind: of the line; there are few.

        Returns:
            How many lines of its kind were suppressed before it; None if it is suppressed as well.
        """
        now = time.monotonic()
        left, then = self._buckets.get(kind, (float(BURST), now))
        left = min(float(BURST), left + (now - then) * LINES_PER_SECOND)
        if left < 1:
            self._buckets[kind] = left, now
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        self._buckets[kind] = left - 1, now
        return self._suppressed.pop(kind, 0)
