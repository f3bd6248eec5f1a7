"""Deadlines, and what is tried again until they pass."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from optserve import errors

T = TypeVar("T")
BYTES_PER_SECOND = 10e6


class Deadline:
    """A moment by which something must be done.

    Args:
        seconds: how long it may take.
        since: when it began, by ``time.monotonic``; now when None.

    Attributes:
        seconds: likewise.
        at: the moment, by the same clock.
    """

    def __init__(self, seconds: float, since: float | None = None) -> None:
        self.seconds = seconds
        self.at = (time.monotonic() if since is None else since) + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())


def allowance(timeout: float, byte_count: int) -> float:
    """A default timeout, lengthened for a transfer by a second for each 10 MB."""
    return timeout + byte_count / BYTES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often, and how soon, a call is tried again after UNAVAILABLE.

    Everything that is tried again has the same effect as if it had been tried once: reads, and
    writes that carry a sequence number or a request id.

    Attributes:
        attempts: how often a call is tried in all, at least 1.
        initial: seconds before the second attempt.
        maximum: the longest pause, in seconds.
        multiplier: by which a pause exceeds the one before it.
        jitter: share of a pause that is drawn at random, in [0, 1].
    """

    attempts: int = 8
    initial: float = 0.1
    maximum: float = 3.0
    multiplier: float = 2.0
    jitter: float = 0.5

    def pause(self, attempt: int, error: errors.OptserveError) -> float:
        """Seconds to wait after the given attempt, counted from 1, failed."""
        pause = min(self.maximum, self.initial * self.multiplier ** (attempt - 1))
        pause *= 1 - self.jitter * random.random()
        return max(pause, error.retry_after or 0.0)

    def worth(self, attempt: int, error: errors.OptserveError, deadline: Deadline) -> bool:
        """Waits after a failed attempt, or says that another makes no sense."""
        mendable = isinstance(error, errors.Unavailable) or error.retry_after is not None
        if not mendable or attempt >= self.attempts:
            return False
        pause = self.pause(attempt, error)
        if pause >= deadline.remaining():
            return False
        time.sleep(pause)
        return True

    def run(self, attempt: Callable[[float], T], deadline: Deadline) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Raises:
            OptserveError: the last failure.
        """
        count = 0
        while True:
            count += 1
            try:
                return attempt(deadline.remaining())
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            if not self.worth(count, error, deadline):
                raise error
