"""Cancels what takes too long, where gRPC's own deadlines do not reach."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from optserve._transport.retry import Deadline

Wait = tuple[float, Callable[[], object]]
"""When it is to be cancelled, and how."""


class Watchdog:
    """Watches one wait at a time from a thread of its own, which starts with the first.

    A stream may stay open for hours and still has to answer each step in time; a gRPC
    deadline would count from the stream's beginning.

    To begin and to end a wait takes no lock and wakes nobody, as a rule: the thread sleeps until
    some earlier wait's deadline, and looks then what is to be watched. So it may cancel a wait
    that ends at this very moment; who has waited asks the clock afterwards.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wait: Wait = NOTHING
        self._sleeps_until = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, deadline: Deadline, cancel: Callable[[], object]) -> None:
        """Calls ``cancel`` from the other thread at the deadline, unless `rest` comes first."""
        self.watch_until(deadline.at, cancel)

    def watch_until(self, at: float, cancel: Callable[[], object]) -> None:
        """The same, with the deadline as a time of ``time.monotonic``."""
        self._wait = at, cancel
        if at < self._sleeps_until:
            self._wake(at)

    def rest(self) -> None:
        """Watches nothing. The thread sleeps on, so that equal steps need not wake it."""
        self._wait = NOTHING

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _wake(self, at: float) -> None:
        with self._changed:
            self._sleeps_until = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="optserve-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        cancelled: Wait = NOTHING
        with self._changed:
            while not self._closed:
                now, wait = time.monotonic(), self._wait
                at = math.inf if wait is cancelled else wait[0]
                if math.isinf(at) and self._sleeps_until > now:
                    at = self._sleeps_until  # the next wait's end, perhaps
                self._sleeps_until = at
                if self._wait is not wait:
                    continue  # `watch` may have looked at `_sleeps_until` just before it was set
                if at <= now:
                    cancelled = wait
                    wait[1]()
                else:
                    del wait  # which would keep the call that it cancels
                    self._changed.wait(None if math.isinf(at) else at - now)


def _nothing() -> None:
    pass


NOTHING: Wait = (math.inf, _nothing)
