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
    step: Step, n: int, dtype: npt.DTypeLike = np.float32, proof: Callable[[], object] = lambda: None
) -> None:
    """Answers requests on standard input, a line of JSON each, until it closes.

    Args:
        step: one step.
        n: how many parameters there are.
        dtype: element type of the gradients.
        proof: called after the steps of every request; raises if they were not what they claim to be.
    """
    answers = _private_output()
    own = gradient(n, dtype)
    _say(answers, ready=True, pid=os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        found: dict[str, object] = {}
        if request["do"] == "check":
            _check(step, n, dtype, request["path"])
        elif request["do"] == "go on":
            found["seconds"] = _step_for(step, own, request["seconds"])
        else:
            found["seconds"] = _time_steps(step, own, request["repeats"])
        proof()
        _say(answers, **found)


def _check(step: Step, n: int, dtype: npt.DTypeLike, path: str) -> None:
    values = np.empty(0)
    for g in gradients(n):
        values = step(g.astype(dtype))
    np.save(path, np.asarray(values).astype(np.float32))


def _time_steps(step: Step, own: Parameters, repeats: int) -> float:
    """Returns the seconds of all calls together, after warm-up calls that do not count.

    After a pause some contenders need hundreds of calls until the scheduler has placed all
    of their threads.
    """
    warm = time.perf_counter() + WARM_UP
    for _ in range(repeats):
        step(own)
        if time.perf_counter() > warm:
            break
    start = time.perf_counter()
    for _ in range(repeats):
        step(own)
    return time.perf_counter() - start


def _step_for(step: Step, own: Parameters, seconds: float) -> list[float]:
    """Returns the seconds of each call that begins within ``seconds``."""
    found = []
    mark = time.perf_counter()
    end = mark + seconds
    while mark < end:
        step(own)
        found.append(time.perf_counter() - mark)
        mark += found[-1]
    return found


def _private_output() -> TextIO:
    """Standard output, taken away from libraries that print to it."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def _say(answers: TextIO, **content: object) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
