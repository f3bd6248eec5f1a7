"""How time and memory of a step grow with the number of parameters."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from tests.performance.contenders.remote import contender
from tests.performance.memory import resident
from tests.performance.options import Options
from tests.performance.results import Finding, Result
from tests.performance.timing import interleave
from tests.support.server import running_server

GROUP = "growth"
SIZES = (10**4, 10**5, 10**6, 10**7, 10**8)


def run(options: Options) -> Iterator[Finding]:
    """Each size has a server of its own, alone: side by side they would not fit everywhere."""
    sizes = options.sizes_of(SIZES)
    times, memories = [], []
    for n in sizes:
        seconds, grown = _measure(n, options)
        times.append(seconds)
        memories.append(grown)
        yield Result(GROUP, "time of a step", n, seconds * 1e3, "ms")
        yield Result(GROUP, "memory of a session", n, grown, "MiB")
    if len(sizes) > 2:
        yield from _line("time", sizes, times, "ns", 1e9)
        yield from _line("memory", sizes, memories, "bytes", 1 << 20)


def _measure(n: int, options: Options) -> tuple[float, float]:
    """Seconds of a step, and MiB that the session adds to a server that has just started."""
    with running_server("numba") as server:
        before = resident(server.process.pid)
        with contender("ours", n, "--at", server.address) as client:
            times = interleave({"stream": client.timed}, options.rounds, options.seconds)
            return statistics.median(times.seconds["stream"]), resident(server.process.pid) - before


def _line(what: str, sizes: list[int], values: list[float], unit: str, factor: float) -> Iterator[Finding]:
    """The line ``fixed + each*n`` that is nearest by relative error, and how near it comes.

    Its straightness is the share of the values' variance that it explains.
    """
    y, n = np.asarray(values), np.asarray(sizes)
    design = np.stack([1 / y, n / y], axis=1)
    fixed, each = np.linalg.lstsq(design, np.ones(len(y)), rcond=None)[0]
    rest = np.sum((y - fixed - each * n) ** 2)
    straight = 1 - rest / np.sum((y - y.mean()) ** 2)
    largest = max(sizes)
    yield Result(GROUP, f"{what} for each parameter", largest, float(each * factor), unit)
    yield Result(GROUP, f"{what} whatever the size", largest, float(fixed * factor), unit)
    yield Result(GROUP, f"straightness of {what}", largest, float(straight), "R2")
