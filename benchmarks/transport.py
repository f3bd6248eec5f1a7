"""Bytes alone, up and down again: the chunk stream, and what could carry them instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from benchmarks.contenders.remote import ContenderError, contender
from benchmarks.contenders.worker import gradients
from benchmarks.options import Options
from benchmarks.results import Failure, Finding
from benchmarks.timing import Timed, interleave

GROUP = "transport"
SIZES = (1_000_000, 25_000_000)
OURS = {"chunk stream": ("chunk_stream", "data"), "chunk stream, gRPC": ("chunk_stream", "grpc")}
PEERS = {
    "raw socket": ("raw_socket", "messages"),
    "raw socket, in place": ("raw_socket", "whole"),
    "bare gRPC": ("grpc_bytes",),
    "Arrow Flight": ("flight",),
}
METHODS = {"PushParameters, PullParameters": ("push_pull",)}
"""Whole methods of the service, which also copy into the session and out of it."""
HEAVY = {"Arrow Flight"}


def run(options: Options) -> Iterator[Finding]:
    """GB/s of both directions together; all bytes have arrived before the first is returned."""
    for n in options.sizes_of(SIZES):
        timed: dict[str, Timed] = {}
        with contextlib.ExitStack() as stack:
            for name, (module, *arguments) in {**OURS, **PEERS, **METHODS}.items():
                if name in HEAVY and not options.heavy:
                    continue
                try:
                    remote = stack.enter_context(contender(module, n, *arguments))
                    np.testing.assert_array_equal(remote.check(), gradients(n)[2])
                    timed[name] = remote.time_steps
                except (ContenderError, AssertionError) as error:
                    yield Failure(GROUP, name, n, str(error))
            times = interleave(timed, options.rounds, options.seconds)
        for name in timed:
            yield from times.rates(GROUP, name, n, "GB/s", 8 * n / 1e9)
            for peer in PEERS if name not in PEERS else ():
                if peer in timed:
                    yield from times.rates(GROUP, name, n, "GB/s", 8 * n / 1e9, peer)
