"""A small step on an open stream beside a bare gRPC exchange of the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.contenders.remote import contender
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import interleave

GROUP = "latency"
SIZES = (10_000,)
OURS = {"stream": "data", "stream, gRPC": "grpc"}
PEERS = {"ping-pong, sync client": "sync", "ping-pong, aio client": "aio"}


def run(options: Options) -> Iterator[Finding]:
    """Microseconds of a step, and of an exchange."""
    for n in options.sizes_of(SIZES):
        with contextlib.ExitStack() as stack:
            timed = {
                name: stack.enter_context(contender("ours", n, f"--over={way}")).time_steps
                for name, way in OURS.items()
            }
            for name, client in PEERS.items():
                timed[name] = stack.enter_context(contender("ping_pong", n, client)).time_steps
            times = interleave(timed, options.rounds, options.seconds)
        for peer in PEERS:
            for name in OURS:
                yield from times.durations(GROUP, name, n, peer)
            yield from times.durations(GROUP, peer, n)
