"""What was tried and did not pay, or costs so much that it is avoided."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from benchmarks.contenders.remote import contender
from benchmarks.kernels.ours import RULES, Kernel
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import interleave, repeat
from optserve_server.arrays.numba_jit import NumbaBackend

GROUP = "tried"
CHUNKS = {"64 KiB": 1 << 16, "256 KiB": 1 << 18, "1 MiB": 1 << 20, "4 MiB": 1 << 22}
SIZES = (25_000_000,)


def run(options: Options) -> Iterator[Finding]:
    """All of it."""
    for n in options.sizes_of(SIZES):
        yield from _fresh_memory(n, options)
        yield from _half_precision(n, options)
        yield from _chunk_sizes(n, options)


def _fresh_memory(n: int, options: Options) -> Iterator[Finding]:
    """Copies into fresh memory of the system, and into memory that was used before."""
    source, target = np.ones(n, np.float32), np.ones(n, np.float32)
    timed = {
        "copy to fresh memory": repeat(lambda: source.copy()),
        "copy to used memory": repeat(lambda: np.copyto(target, source)),
    }
    times = interleave(timed, options.rounds, options.seconds / 2)
    yield from times.rates(GROUP, "copy to fresh memory", n, "GB/s", 4 * n / 1e9, "copy to used memory")
    yield from times.rates(GROUP, "copy to used memory", n, "GB/s", 4 * n / 1e9)


def _half_precision(n: int, options: Options) -> Iterator[Finding]:
    """A float16 gradient that NumPy converts before the pass, and one that is decoded inside it."""
    start = np.random.default_rng(0).standard_normal(n, np.float32)
    gradient = np.random.default_rng(1).standard_normal(n, np.float32).astype(np.float16)
    wide = gradient.astype(np.float32)
    inside = Kernel(RULES["Adam"], NumbaBackend(), start, gradient)
    after = Kernel(RULES["Adam"], NumbaBackend(), start, wide)

    def before() -> None:
        np.copyto(wide, gradient)
        after()

    timed = {"float16, converted first": repeat(before), "float16, decoded in the pass": repeat(inside)}
    times = interleave(timed, options.rounds, options.seconds / 2)
    yield from times.durations(GROUP, "float16, converted first", n, "float16, decoded in the pass")
    yield from times.durations(GROUP, "float16, decoded in the pass", n)


def _chunk_sizes(n: int, options: Options) -> Iterator[Finding]:
    """The same bytes over bare gRPC in messages of other sizes."""
    with contextlib.ExitStack() as stack:
        timed = {
            f"messages of {name}": stack.enter_context(contender("grpc_bytes", n, size)).time_steps
            for name, size in CHUNKS.items()
        }
        times = interleave(timed, options.rounds, options.seconds)
    for name in timed:
        peer = "messages of 1 MiB" if name != "messages of 1 MiB" else ""
        yield from times.rates(GROUP, name, n, "GB/s", 8 * n / 1e9, peer)
