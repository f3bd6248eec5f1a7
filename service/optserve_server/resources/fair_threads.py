"""Threads that namespaces share by weight."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from optserve_server.resources.fair_queue import FairQueue, Flow

T = TypeVar("T")

SPARE_THREADS = 1
"""Threads that no flow alone may use, so that another one begins at once: work cannot be interrupted."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    outcome: Future[Any]


class FairThreads:
    """Runs work in threads, in the order of a fair queue whose costs are seconds.

    Args:
        count: threads that one flow may use at once; there are `SPARE_THREADS` more for all others.
        name: prefix of the threads' names.
        limit: threads in all, if that is not ``count`` and the spare ones.
    """

    def __init__(self, count: int, name: str, limit: int | None = None) -> None:
        self._most_of_flow, self._most = count, limit or count + SPARE_THREADS
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix=name)
        self._queue: FairQueue[_Job] = FairQueue()
        self._running: Counter[Flow | None] = Counter()
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, flow: Flow | None, work: Callable[[], T]) -> Future[T]:
        """Runs work as soon as it is its flow's turn.

        Args:
            flow: whose work it is.
            work: what is run, unless the future is cancelled before it begins.
        """
        outcome: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                outcome.cancel()
                outcome.set_running_or_notify_cancel()
                return outcome
            self._queue.push(flow, _Job(work, outcome))
        self._start_next()
        return outcome

    def close(self, *, wait: bool = False) -> None:
        """Begins no more work; ``wait`` says whether what runs is waited for."""
        with self._lock:
            self._is_closed = True
            waiting = [taken[1].outcome for taken in iter(self._queue.pop, None)]
        for outcome in waiting:
            outcome.cancel()
            outcome.set_running_or_notify_cancel()
        self._pool.shutdown(wait)

    def _start_next(self) -> None:
        with self._lock:
            while self._running.total() < self._most:
                taken = self._queue.pop(self._has_thread_for)
                if taken is None:
                    return
                flow, job = taken
                self._running[flow] += 1
                self._pool.submit(partial(self._run, flow, job))

    def _has_thread_for(self, flow: Flow | None) -> bool:
        return self._running[flow] < self._most_of_flow

    def _run(self, flow: Flow | None, job: _Job) -> None:
        began = time.perf_counter()
        if job.outcome.set_running_or_notify_cancel():
            _run_into(job.outcome, job.work)
        with self._lock:
            self._queue.charge(flow, time.perf_counter() - began)
            self._running[flow] -= 1
            if not self._running[flow]:
                del self._running[flow]
        del job  # what it holds may be large, and the next may be long in coming
        self._start_next()


def _run_into(outcome: Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:
        traceback.clear_frames(
            error.__traceback__
        )  # what was being made is released, however long that is kept
        outcome.set_exception(error)
        del outcome, work  # which the error's traceback would keep alive
    else:
        outcome.set_result(result)
