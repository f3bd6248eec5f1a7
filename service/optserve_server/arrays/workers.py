"""Threads over parts of one call. Kernels release the GIL, so threads are enough."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

SMALLEST_SPLIT = 400_000
"""Below this many elements the hand-over costs more than a second thread saves."""


class Workers:
    """The threads of one backend.

    Args:
        threads: how many work on one call, the caller's included; all cores if None.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def marks(self, low: int, high: int) -> list[int]:
        """Where to cut the elements from ``low`` to ``high``: there, and in between."""
        parts = self.threads if high - low >= SMALLEST_SPLIT else 1
        return [low + (high - low) * i // parts for i in range(parts + 1)]

    def run(self, work: Callable[[int, int], None], marks: Sequence[int]) -> None:
        """Calls ``work(low, high)`` between each two marks and waits for all of them."""
        if len(marks) == 2:
            work(*marks)
            return
        parts = list(itertools.pairwise(marks))
        futures = [self._threads().submit(work, low, high) for low, high in parts[1:]]
        try:
            work(*parts[0])
        finally:
            failures = [future.exception() for future in futures]
        for failure in failures:
            if failure is not None:
                raise failure

    def _threads(self) -> ThreadPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="optserve-arrays")
            return self._pool
