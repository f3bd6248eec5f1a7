"""A whole step, gradient up and parameters down, beside what one would use instead.

Every contender is a process of its own with a server process of its own; both are stopped
while others have their turn. Each peer is measured in a phase of its own, alternating with ours, so
that daemons which cannot be stopped slow no other contender; a peer that uses OpenMP is measured
under 1 and under 2 threads, and the better of both counts.

`stream` is what a user gets over TCP: a data connection beside gRPC. `stream, gRPC` is the same
client and server without one, as behind a proxy or over TLS.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contenders.remote import ContenderError, Remote, contender
from benchmarks.contenders.worker import Parameters, gradients
from benchmarks.options import Options
from benchmarks.results import Failure, Finding
from benchmarks.timing import Times, interleave

GROUP = "end to end"
STREAM, OVER_GRPC = "stream", "stream, gRPC"
SHARED = "shared memory, in place"
SIZES = (10_000, 1_000_000, 25_000_000)


@dataclass(frozen=True)
class Contender:
    """What runs: a module of `benchmarks.contenders`.

    Attributes:
        tolerance: how far its parameters may lie from the reference, relative to the
            greatest.
    """

    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    tolerance: float = 1e-5


OURS = {
    STREAM: Contender("ours"),
    OVER_GRPC: Contender("ours", ("--over=grpc",)),
    "stream, bfloat16 wire": Contender("ours", ("--wire=bfloat16",), tolerance=1e-2),
    "stream, bfloat16 gradients": Contender(
        "ours", ("--wire=bfloat16", "--gradient=bfloat16"), tolerance=1e-2
    ),
    "shared memory, copied": Contender("ours", ("--over=shared",)),
    "shared memory, in place, REJECT": Contender("ours", ("--over=in-place",)),
    SHARED: Contender("ours", ("--over=in-place", "--non-finite=ALLOW")),
}
NAIVE = "naive gRPC"
THREADED = {"Ray actor": "ray_actor", "gloo": "gloo", "torch RPC": "torch_rpc"}


def run(options: Options) -> Iterator[Finding]:
    """Steps per second."""
    for n in options.sizes_of(SIZES):
        yield from _phase(n, {NAIVE: Contender("naive")}, list(OURS), options)
        for name, module in THREADED.items() if options.heavy else ():
            peers = {
                f"{name}, OMP {threads}": Contender(module, environment={"OMP_NUM_THREADS": threads})
                for threads in ("1", "2")
            }
            yield from _phase(n, peers, [STREAM, OVER_GRPC, SHARED], options, name)


def _phase(
    n: int, peers: Mapping[str, Contender], ours: Sequence[str], options: Options, label: str = ""
) -> Iterator[Finding]:
    """Measures ours and a peer's variants alternately."""
    wanted = {**{name: OURS[name] for name in ours}, **peers}
    with contextlib.ExitStack() as stack:
        timed: dict[str, Remote] = {}
        expected = reference(n)
        for name, chosen in wanted.items():
            try:
                remote = stack.enter_context(
                    contender(chosen.module, n, *chosen.arguments, **(chosen.environment or {}))
                )
                agree(remote.check(), expected, chosen.tolerance)
                remote.rest()
                timed[name] = remote
            except (ContenderError, AssertionError) as error:
                yield Failure(GROUP, name, n, str(error))
        times = interleave({k: r.time_alone for k, r in timed.items()}, options.rounds, options.seconds)
    yield from _findings(times, n, [name for name in peers if name in timed], label)


def _findings(times: Times, n: int, peers: list[str], label: str) -> Iterator[Finding]:
    for peer in peers:
        yield from times.rates(GROUP, peer, n, "steps/s", 1)
    if not peers:
        return
    best = times.better(peers)
    for name in OURS:
        if name in times.seconds:
            yield from times.rates(GROUP, name, n, "steps/s", 1, best, label or best)
            if name != STREAM and STREAM in times.seconds and not label:
                yield from times.rates(GROUP, name, n, "steps/s", 1, STREAM)


@functools.lru_cache(1)
def reference(n: int) -> Parameters:
    """The parameters after `gradients`, by the formula in float64, a slice at a time."""
    given, result = gradients(n), np.empty(n, np.float32)
    for start in range(0, n, 1 << 20):
        part = slice(start, start + (1 << 20))
        p = m = v = np.zeros(len(result[part]))
        for t, g in enumerate((g[part].astype(np.float64) for g in given), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            p = p - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        result[part] = p
    return result


def agree(values: Parameters, expected: Parameters, tolerance: float) -> None:
    """Compares parameters.

    Raises:
        AssertionError: they differ.
    """
    far = float(np.max(np.abs(values - expected)) / np.max(np.abs(expected)))
    assert far <= tolerance, f"wrong parameters: off by {far:.2g}"
