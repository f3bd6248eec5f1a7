"""Adam, AdamW and SGD with momentum on both CPU executors beside torch and optax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.kernels.ours import RULES, Kernel
from benchmarks.kernels.peers import Optax, Torch
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import Times, interleave, repeat
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend

SIZES = (10_000, 100_000, 1_000_000, 25_000_000)
FUSED = {"torch fused, 1 thread": 1, "torch fused, 2 threads": 2}
DEFAULT = "torch fused, 2 threads"
"""torch's default on two cores."""


def run(options: Options) -> Iterator[Finding]:
    """Gelem/s of one step on float32 arrays, everything in the cache that fits there."""
    for rule in RULES:
        for n in options.sizes_of(SIZES):
            times = _times(rule, n, options)
            yield from findings(times, f"kernel: {rule}", n)


def findings(times: Times, group: str, n: int) -> Iterator[Finding]:
    """Every contender, compared with torch at its better thread count and as it comes."""
    best = times.better([name for name in FUSED if name in times.seconds])
    for name in times.seconds:
        if name in FUSED:
            yield from times.rates(group, name, n, "Gelem/s", n / 1e9)
        else:
            yield from times.rates(group, name, n, "Gelem/s", n / 1e9, best, "torch fused")
            yield from times.rates(group, name, n, "Gelem/s", n / 1e9, DEFAULT)


def _times(rule: str, n: int, options: Options) -> Times:
    start = np.random.default_rng(0).standard_normal(n, np.float32)
    gradient = np.random.default_rng(1).standard_normal(n, np.float32)
    contenders: dict[str, Any] = {
        "numba": Kernel(RULES[rule], NumbaBackend(), start, gradient),
        "numpy, 1 thread": Kernel(RULES[rule], NumpyBackend(1), start, gradient),
        "numpy, 2 threads": Kernel(RULES[rule], NumpyBackend(2), start, gradient),
        **{name: Torch(rule, threads, [start], [gradient]) for name, threads in FUSED.items()},
    }
    if options.heavy:
        contenders["optax, jitted"] = Optax(rule, start, gradient)
    check(contenders)
    return interleave(
        {name: repeat(call) for name, call in contenders.items()}, options.rounds, options.seconds / 5
    )


def check(contenders: Mapping[str, Any]) -> None:
    """Takes the first step with each, and compares.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    values = []
    for contender in contenders.values():
        contender()
        values.append(contender.parameters())
    for name, other in zip(contenders, values, strict=True):
        np.testing.assert_allclose(other, values[0], rtol=1e-5, atol=1e-6, err_msg=name)
