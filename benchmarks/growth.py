"""How time and memory of a step grow with the number of parameters."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.contenders.remote import contender
from benchmarks.memory import ARRAYS, MIB, resident
from benchmarks.options import Options
from benchmarks.results import Finding, Result
from benchmarks.timing import interleave
from benchmarks.trends import Line, exponent
from tests.support.server import running_server

GROUP = "growth"
SIZES = (10**4, 10**5, 10**6, 10**7, 25 * 10**6, 5 * 10**7, 10**8)
"""Decades, and more where a line is decided: 1e8 alone would pull any line through itself."""

TURNS = 3
"""How often each size is measured."""

LARGE = 10**6
"""Parameters from which a step is more than its latency."""


def run(options: Options) -> Iterator[Finding]:
    """Time and memory of each size, and the lines through them."""
    sizes = options.sizes_of(SIZES)
    times, memories = [], []
    for n, (seconds, grown) in _sizes(sizes, options).items():
        times.append(statistics.median(seconds))
        memories.append(statistics.median(grown))
        yield Result(GROUP, "time of a step", n, times[-1] * 1e3, "ms")
        yield Result(GROUP, "memory of a session", n, memories[-1], "MiB")
    if len(sizes) > 2:
        yield from _line("time", sizes, times, "ns", 1e9)
        yield from _line("memory", sizes, memories, "bytes", MIB)
        beyond = max(grown - (ARRAYS + 1) * 4 * n / MIB for n, grown in zip(sizes, memories, strict=True))
        yield Result(GROUP, "memory beyond the arrays, at most", max(sizes), beyond, "MiB")
    large = [(n, seconds) for n, seconds in zip(sizes, times, strict=True) if n >= LARGE]
    if len(large) > 2:
        yield Result(GROUP, "exponent of time", max(sizes), exponent(*zip(*large, strict=True)), "power of n")


def _sizes(sizes: Sequence[int], options: Options) -> dict[int, tuple[list[float], list[float]]]:
    """Seconds of steps and MiB of sessions by size.

    Each size has a server of its own, alone: side by side they would not fit everywhere. So
    they take turns, that a drift of the machine meets all alike.
    """
    found: dict[int, tuple[list[float], list[float]]] = {n: ([], []) for n in sizes}
    for number in range(TURNS):
        for n in sizes if number % 2 == 0 else sizes[::-1]:
            seconds, grown = _measure(n, options)
            found[n][0].extend(seconds)
            found[n][1].append(grown)
    return found


def _measure(n: int, options: Options) -> tuple[list[float], float]:
    """Seconds of steps, and MiB that the session adds to a server that has just started."""
    rounds = -(-options.rounds // TURNS)
    with running_server("numba") as server:
        before = resident(server.process.pid)
        with contender("ours", n, "--at", server.address) as client:
            times = interleave({"stream": client.time_steps}, rounds, options.seconds)
            return times.seconds["stream"], resident(server.process.pid) - before


def _line(what: str, sizes: list[int], values: list[float], unit: str, factor: float) -> Iterator[Finding]:
    """The line through all sizes, and how straight they are."""
    line, largest = Line.through(sizes, values), max(sizes)
    yield Result(GROUP, f"{what} for each parameter", largest, line.each * factor, unit)
    yield Result(GROUP, f"{what} where the line begins", largest, line.fixed * factor, unit)
    yield Result(GROUP, f"straightness of {what}", largest, line.straight, "R2")
