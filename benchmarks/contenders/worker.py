"""The contender's process: takes steps on request."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

Parameters = npt.NDArray[Any]
Step = Callable[[Parameters], Parameters]
"""Sends a gradient and gives the parameters after the step."""


WARM_UP = 0.3
"""Seconds of calls that do not count, before those that do; at most as many as are to count."""


def gradient(n: int, dtype: npt.DTypeLike = np.float32) -> Parameters:
    """The gradient that every contender sends."""
    return np.random.default_rng(0).standard_normal(n, np.float32).astype(dtype)


def gradients(n: int) -> list[Parameters]:
    """Three gradients in different directions, by which contenders are checked."""
    first = gradient(n)
    return [first, np.float32(-0.5) * first[::-1].copy(), first * first]


def serve(
    step: Step,
    n: int,
    dtype: npt.DTypeLike = np.float32,
    check: Callable[[], object] = lambda: None,
    drain: Callable[[], Parameters | None] = lambda: None,
) -> None:
    """Answers requests on standard input, a line of JSON each, until it closes.

    Args:
        step: one step.
        n: number of parameters.
        dtype: element type of the gradients.
        check: called after the steps of every request; raises if they were not what is measured.
        drain: waits for the steps in flight; returns the last one's parameters if there were any.
    """
    answers = private_output()
    own = gradient(n, dtype)
    say(answers, ready=True, pid=os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        found: dict[str, object] = {}
        if request["do"] == "check":
            _save(step, drain, n, dtype, request["path"])
        elif request["do"] == "go on":
            found["seconds"] = _going_on(step, own, request["seconds"])
        elif request["do"] == "sample":
            found["layers"], found["functions"] = _sample(step, own, request["repeats"])
        else:
            found["seconds"] = _time_steps(step, drain, own, request["repeats"])
        check()
        say(answers, **found)


def _save(
    step: Step, drain: Callable[[], Parameters | None], n: int, dtype: npt.DTypeLike, path: str
) -> None:
    """Saves the parameters after three steps."""
    values = np.empty(0)
    for g in gradients(n):
        values = step(g.astype(dtype))
    last = drain()
    np.save(path, np.asarray(values if last is None else last).astype(np.float32))


def _time_steps(step: Step, drain: Callable[[], Parameters | None], own: Parameters, repeats: int) -> float:
    """Returns the seconds of all calls together, after calls that do not count.

    After a pause, some contenders need hundreds of calls until the scheduler has placed their threads.
    """
    warm = time.perf_counter() + WARM_UP
    for _ in range(repeats):
        step(own)
        if time.perf_counter() > warm:
            break
    drain()
    start = time.perf_counter()
    for _ in range(repeats):
        step(own)
    drain()
    return time.perf_counter() - start


def _sample(step: Step, own: Parameters, repeats: int) -> tuple[object, object]:
    """Returns what `Sampler.stop` returns of this process."""
    from benchmarks.contenders.sampler import Sampler  # after gRPC

    sampler = Sampler()
    sampler.start()
    for _ in range(repeats):
        step(own)
    return sampler.stop()


def _going_on(step: Step, own: Parameters, seconds: float) -> list[float]:
    """The seconds of each call, of as many as begin in so long."""
    found = []
    mark = time.perf_counter()
    end = mark + seconds
    while mark < end:
        step(own)
        found.append(time.perf_counter() - mark)
        mark += found[-1]
    return found


def private_output() -> TextIO:
    """Standard output, taken away from libraries that print to it."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def say(answers: TextIO, **content: object) -> None:
    """Sends an answer, a line of JSON."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()
