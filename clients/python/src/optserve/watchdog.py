"""Cancels what takes too long, where gRPC's own deadlines do not reach."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optserve.retry import Deadline


class Watchdog:
    """Watches one wait at a time from a thread of its own, which starts with the first.

    A stream may stay open for hours and still has to answer each step in time; a gRPC
    deadline would count from the stream's beginning.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at = math.inf
        self._sleeps_until = math.inf
        self._cancel: Callable[[], object] = lambda: None
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watching(self, deadline: Deadline, cancel: Callable[[], object]) -> Iterator[None]:
        """Calls ``cancel`` from the other thread if the block outlasts the deadline."""
        self._set(deadline.at, cancel)
        try:
            yield
        finally:
            self._set(math.inf, lambda: None)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _set(self, at: float, cancel: Callable[[], object]) -> None:
        with self._changed:
            self._at, self._cancel = at, cancel
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="optserve-watchdog", daemon=True)
                self._thread.start()
            if at < self._sleeps_until:
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
