"""Cancels what takes too long, where gRPC's own deadlines do not reach."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from optserve.retry import Deadline


class Watchdog:
    """Watches one wait at a time from a thread of its own, which starts with the first.

    A stream may stay open for hours and still has to answer each step in time; a gRPC
    deadline would count from the stream's beginning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._at = math.inf
        self._sleeps_until = math.inf
        self._cancel: Callable[[], object] = _nothing
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, deadline: Deadline, cancel: Callable[[], object]) -> None:
        """Calls ``cancel`` from the other thread at the deadline, unless `rest` comes first."""
        with self._lock:
            self._at, self._cancel = deadline.at, cancel
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="optserve-watchdog", daemon=True)
                self._thread.start()
            if self._at < self._sleeps_until:
                self._changed.notify()

    def rest(self) -> None:
        """Watches nothing. The thread sleeps on, so that equal steps need not wake it."""
        with self._lock:
            self._at, self._cancel = math.inf, _nothing

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                left = self._at - time.monotonic()
                if left <= 0:
                    self._cancel()
                    self._at = math.inf
                else:
                    self._sleeps_until = self._at
                    self._changed.wait(None if math.isinf(left) else left)


def _nothing() -> None:
    pass
