"""Watchdog of waits within a stream, for which gRPC has no deadlines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

Wait = tuple[float, Callable[[], object]]
"""When a wait is cancelled, by ``time.monotonic``, and how."""


class Watchdog:
    """Cancels waits from one thread, which starts with the first of them.

    A stream may stay open for hours and still has to answer each step in time; a gRPC deadline
    would count from the stream's beginning.

    As a rule, a wait begins and ends without a lock and wakes no thread: the thread sleeps until
    some earlier wait's deadline, and looks then which waits there are. So it may cancel a wait that
    ends at this very moment; the waiting thread asks the clock afterwards.
    """

    def __init__(self) -> None:
        self._waits: dict[object, Wait] = {}
        self.after_fork()

    def watch(self, key: object, at: float, cancel: Callable[[], object]) -> None:
        """Calls ``cancel`` from the watchdog's thread at a time, unless `stop_watching` comes first.

        Args:
            key: what waits; one wait of each at a time.
            at: the time, by ``time.monotonic``.
            cancel: ends the wait.
        """
        self._waits[key] = at, cancel
        if at < self._sleeps_until:
            self._wake_thread(at)

    def stop_watching(self, key: object) -> None:
        """Ends a wait. The thread sleeps on, so that equal steps need not wake it."""
        self._waits.pop(key, None)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def after_fork(self) -> None:
        """Starts again in a forked child."""
        self._waits.clear()
        self._changed = threading.Condition()
        self._sleeps_until = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def _wake_thread(self, at: float) -> None:
        with self._changed:
            self._sleeps_until = min(at, self._sleeps_until)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run_thread, name="optserve-watchdog", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def _run_thread(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                at = self._cancel_late(now)
                if math.isinf(at) and self._sleeps_until > now:
                    at = self._sleeps_until  # the next wait's end, perhaps
                self._sleeps_until = at
                if all(wait[0] >= at for wait in list(self._waits.values())):
                    # `watch` may have looked at `_sleeps_until` just before it was set
                    self._changed.wait(None if math.isinf(at) else at - now)

    def _cancel_late(self, now: float) -> float:
        """Cancels the waits whose time has come, and returns the time of the next one."""
        at = math.inf
        for key, wait in list(self._waits.items()):
            if wait[0] > now:
                at = min(at, wait[0])
            elif self._waits.pop(key, None) is not None:
                wait[1]()
        return at
