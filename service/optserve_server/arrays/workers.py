"""Threads over parts of one call. Kernels release the GIL, so threads are enough."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from optserve_server.resources.processors import available_processors

SMALLEST_SPLIT = 150_000
"""Below this many elements the hand-over costs more than a second thread saves."""

SMALLEST_PIECE = 600_000
"""The same for a piece of a pass: a chunk just received is in the cache of the core that has it."""

SHARE = 100_000
"""Elements of a part, at least."""

SHARES = 4
"""Parts per thread, at most: one that is held up leaves its later parts to the others."""

Work = Callable[[int, int], None]


class Workers:
    """The threads of one backend.

    Args:
        threads: how many work on one call, the caller's included; one for each processor if None.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_processors()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = False
        self._starting = threading.Lock()

    def split_points(self, low: int, high: int, least: int = SMALLEST_SPLIT) -> list[int]:
        """Where to cut the elements from ``low`` to ``high``: there, and in between.

        Args:
            low: the first.
            high: the end.
            least: how many there must be for more than one thread.
        """
        parts = 1
        if high - low >= least and self.threads > 1:
            parts = self.threads * min(max((high - low) // (SHARE * self.threads), 1), SHARES)
        return [low + (high - low) * i // parts for i in range(parts + 1)]

    def run(self, work: Work, marks: Sequence[int]) -> None:
        """Calls ``work(low, high)`` between each two marks and waits for all of them."""
        if len(marks) == 2:
            work(*marks)
            return
        self._start_threads()
        call = _Call(work, marks)
        for _ in range(min(self.threads, len(marks) - 1) - 1):
            self._calls.put(call)
        call.compute_parts()
        call.finish()

    def _start_threads(self) -> None:
        with self._starting:
            if self._started:
                return
            for _ in range(self.threads - 1):
                name = "optserve-arrays"
                threading.Thread(target=_run_thread, args=(self._calls,), name=name, daemon=True).start()
            weakref.finalize(self, _stop_threads, self._calls, self.threads - 1)
            self._started = True


class _Call:
    """A call's parts, which threads take until there are none left."""

    def __init__(self, work: Work, marks: Sequence[int]) -> None:
        self._work = work
        self._parts = itertools.pairwise(marks)
        self._left = len(marks) - 1
        self._lock = threading.Lock()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def compute_parts(self) -> None:
        """Computes parts; a failure is kept for `finish`."""
        while True:
            with self._lock:
                part = next(self._parts, None)
            if part is None:
                return
            failure: BaseException | None = None
            try:
                self._work(*part)
            except BaseException as error:
                failure = error
            self._ended.put(failure)

    def finish(self) -> None:
        """Waits for the parts that other threads took."""
        failures = [self._ended.get() for _ in range(self._left)]
        for failure in failures:
            if failure is not None:
                raise failure


def _run_thread(calls: SimpleQueue[_Call | None]) -> None:
    """What a thread does: it helps with every call."""
    while (call := calls.get()) is not None:
        call.compute_parts()
        del call


def _stop_threads(calls: SimpleQueue[_Call | None], threads: int) -> None:
    for _ in range(threads):
        calls.put(None)
