"""Gradients in half precision, decoded inside the pass, beside float32 ones."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import numpy.typing as npt

from benchmarks.kernels.ours import RULES, Kernel
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import interleave, repeat
from optserve_server.arrays.numba_jit import NumbaBackend

GROUP = "kernel: gradient dtype"
DTYPES: dict[str, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
SIZES = (10_000, 1_000_000, 25_000_000)


def run(options: Options) -> Iterator[Finding]:
    """Microseconds of Adam on float32 parameters."""
    for n in options.sizes_of(SIZES):
        start, gradient = (np.random.default_rng(i).standard_normal(n, np.float32) for i in (0, 1))
        timed = {
            name: repeat(Kernel(RULES["Adam"], NumbaBackend(), start, gradient.astype(dtype)))
            for name, dtype in DTYPES.items()
        }
        times = interleave(timed, options.rounds, options.seconds / 5)
        yield from times.durations(GROUP, "float32", n)
        for name in ("float16", "bfloat16"):
            yield from times.durations(GROUP, name, n, "float32")
