"""Timing side by side: every contender in turn, round after round, medians compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, float]:
    """The median time of one call of each contender.

    Args:
        contenders: what to call, by name. Each is called once before it counts.
        rounds: how many times each is measured, in turn, so that a drift of the machine
            meets all of them alike.
        seconds: about how long one measurement lasts; short calls are repeated.

    Returns:
        Seconds per call, by name.
    """
    repeats = {name: _repeats(call, seconds) for name, call in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(_time(call, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _repeats(call: Callable[[], object], seconds: float) -> int:
    call()
    return max(1, min(100_000, int(seconds / max(_time(call, 1), 1e-9))))


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
