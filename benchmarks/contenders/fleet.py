"""Processes of workers that step together, and are timed on request."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.contenders.worker import Parameters, private_output, say

Step = Callable[[], Parameters]
"""One step of one worker; gives the parameters after it."""

MakeStep = Callable[[int, Sequence[str]], Step]
"""Makes the step of a worker of a rank, from the contender's arguments; a function of a module."""

WARM_UP_SHARE = 0.25
"""Steps that do not count, as a share of those that do, and at least one."""


def gradient_of(rank: int, n: int) -> Parameters:
    """The gradient that the worker of a rank sends: no two are alike."""
    return np.random.default_rng(rank).standard_normal(n, np.float32)


@contextmanager
def workers_of(make: MakeStep, count: int, arguments: Sequence[str]) -> Iterator[Sequence[Connection]]:
    """Runs a process for each worker until the block ends; gives a connection to each."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    try:
        for rank in range(count):
            own, its = context.Pipe()
            process = context.Process(target=_work, args=(its, make, rank, arguments), daemon=True)
            process.start()
            ends.append(own)
            processes.append(process)
        for end in ends:
            end.recv()
        yield ends
    finally:
        for process in processes:
            process.terminate()
            process.join(10)


def time_together(workers: Sequence[Connection], repeats: int) -> float:
    """Seconds in which each worker takes a number of steps, after some that do not count."""
    for some in (max(1, round(WARM_UP_SHARE * repeats)), repeats):
        begun = time.perf_counter()
        for worker in workers:
            worker.send(some)
        for worker in workers:
            worker.recv()
    return time.perf_counter() - begun


def take_steps(workers: Sequence[Connection], repeats: int) -> Parameters:
    """The parameters of the first worker after a number of steps of each."""
    for worker in workers:
        worker.send(-repeats)
    values: list[Parameters] = [worker.recv() for worker in workers]
    return values[0]


def serve(time_steps: Callable[[int], float], check: Callable[[int], Parameters]) -> None:
    """Answers requests on standard input, as `benchmarks.contenders.worker.serve` does.

    Args:
        time_steps: the seconds of a number of steps.
        check: the parameters after a number of steps.
    """
    answers = private_output()
    say(answers, ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "check":
            np.save(request["path"], np.asarray(check(request["steps"])))
            say(answers)
        else:
            say(answers, seconds=time_steps(request["repeats"]))


def _work(requests: Any, make: MakeStep, rank: int, arguments: Sequence[str]) -> None:
    """Takes steps until the process is ended; a negative number asks for the parameters."""
    os.dup2(2, 1)  # standard output is that of the contender's answers
    step = make(rank, arguments)
    requests.send(True)
    while True:
        try:
            count, values = requests.recv(), None
        except EOFError:
            return  # the contender has ended
        for _ in range(abs(count)):
            values = step()
        requests.send(values if count < 0 else True)
