"""Deadlines, and retries until then."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from optserve import errors

BYTES_PER_SECOND = 10e6


class Deadline:
    """A moment by which something must be done.

    Args:
        seconds: how long it may take.

    Attributes:
        seconds: as given.
        at: the moment, by ``time.monotonic``.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())


def transfer_timeout(timeout: float, byte_count: int) -> float:
    """A default timeout in seconds, lengthened for a transfer by a second for each 10 MB."""
    return timeout + byte_count / BYTES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Retry policy: delays between attempts after UNAVAILABLE, until the deadline.

    A call that is made again has the same effect as if it had been made once: reads, and writes
    that carry a sequence or a request id.

    Attributes:
        attempts: how often a call is made in all, at least 1; until its deadline when None.
        initial: seconds before the second attempt.
        maximum: the longest pause, in seconds. The others wait for a worker that makes a pause, if its
            lease was renewed in the meantime.
        multiplier: factor between a pause and the one before it.
        jitter: share of a pause that is drawn at random, in [0, 1].
    """

    attempts: int | None = None
    initial: float = 0.1
    maximum: float = 1.0
    multiplier: float = 2.0
    jitter: float = 0.5

    def compute_delay(self, attempt: int, error: errors.OptserveError) -> float:
        """Seconds to wait after the given attempt, counted from 1, failed."""
        pause = min(self.maximum, self.initial * self.multiplier ** min(attempt - 1, 64))
        pause *= 1 - self.jitter * random.random()
        return max(pause, error.retry_after or 0.0)

    def compute_pause(self, attempt: int, error: errors.OptserveError, deadline: Deadline) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none.

        Args:
            attempt: number of the failed attempt, from 1.
            error: its error.
            deadline: of all attempts.
        """
        if not isinstance(error, errors.Unavailable) and error.retry_after is None:
            return None
        if self.attempts is not None and attempt >= self.attempts:
            return None
        pause = self.compute_delay(attempt, error)
        return pause if pause < deadline.remaining() else None
