"""Deadlines, and retries until then."""

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

    def wait_before_retry(
        self,
        attempt: int,
        error: errors.OptserveError,
        deadline: Deadline,
        sleep: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Waits after a failed attempt, with ``sleep`` if it had no answer.

        Returns:
            Whether there is to be another attempt.
        """
        if not isinstance(error, errors.Unavailable) and error.retry_after is None:
            return False
        if self.attempts is not None and attempt >= self.attempts:
            return False
        pause = self.compute_delay(attempt, error)
        if pause >= deadline.remaining():
            return False
        if error.reason is None:
            sleep(pause)
        else:  # the server answered, so there is a connection
            time.sleep(pause)
        return True

    def run(
        self,
        attempt: Callable[[float], T],
        deadline: Deadline,
        add_context: Callable[[errors.OptserveError, int, Deadline], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Args:
            attempt: makes the call.
            deadline: of all attempts.
            add_context: adds to an error that no other attempt follows what is known of it.
            sleep: waits for some seconds after an attempt that had no answer.

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
            except errors.Unavailable as unavailable:
                error = unavailable
            if not self.wait_before_retry(count, error, deadline, sleep):
                add_context(error, count, deadline)
                raise error
