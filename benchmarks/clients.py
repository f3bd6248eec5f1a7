"""Many clients at once, and a small one beside a large one."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.contenders.remote import Remote, contender
from benchmarks.contenders.server import serving
from benchmarks.memory import resident
from benchmarks.options import Options
from benchmarks.results import Finding, Result, Spread
from tests.support.server import running_server

GROUP = "clients"
COUNTS = (1, 2, 4, 8, 16)
MOST = max(COUNTS)
PARAMETERS = 100_000
SMALL, LARGE = 10_000, 25_000_000
STREAM, OVER_GRPC, PEER = (f"{name}, {MOST} clients" for name in ("stream", "stream, gRPC", "naive gRPC"))

Clients = Sequence[Remote]
Durations = list[list[float]]
"""Seconds of each step, by client."""


def run(options: Options) -> Iterator[Finding]:
    """Each client is a process and has a session of its own."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("numba"))
        ours: list[Remote] = []
        for count in COUNTS:
            while len(ours) < count:
                ours.append(stack.enter_context(contender("ours", PARAMETERS, "--at", server.address)))
            together(ours, options.seconds)
            yield Result(GROUP, "server, by number of clients", count, resident(server.process.pid), "MiB")
        for count in COUNTS:
            total = throughput(together(ours[:count], 2 * options.seconds))
            yield Result(GROUP, "stream, by number of clients", count, total, "steps/s")
        port = stack.enter_context(serving("naive_server", PARAMETERS, MOST))
        naive = [stack.enter_context(contender("naive", PARAMETERS, port, i)) for i in range(MOST)]
        sides: dict[str, Clients] = {STREAM: ours, PEER: naive}
        if options.heavy:
            over_grpc = ("ours", PARAMETERS, "--at", server.address, "--over=grpc")
            sides[OVER_GRPC] = [stack.enter_context(contender(*over_grpc)) for _ in range(MOST)]
        yield from _beside(sides, options)
    if options.heavy:
        yield from _small_beside_large(options)


def together(clients: Clients, seconds: float) -> Durations:
    """What each client's steps take when all of them step at once."""
    for client in clients:
        client.goes_on(0.3)
    for client in clients:
        client.durations()
    for client in clients:
        client.goes_on(seconds)
    return [client.durations() for client in clients]


def throughput(found: Durations) -> float:
    """Steps per second of all clients together."""
    return sum(len(own) / sum(own) for own in found)


def _beside(sides: Mapping[str, Clients], options: Options) -> Iterator[Finding]:
    """Ours and the naive server's in turn; only one side steps at a time."""
    found: dict[str, list[Durations]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, clients in sides.items():
            found[name].append(together(clients, 2 * options.seconds))
    totals = {name: [throughput(durations) for durations in rounds] for name, rounds in found.items()}
    for name, own in totals.items():
        total = statistics.median(own)
        if name == PEER:
            yield Result(GROUP, name, PARAMETERS, total, "steps/s")
            continue
        ratios = [mine / its for mine, its in zip(own, totals[PEER], strict=True)]
        yield Result(GROUP, name, PARAMETERS, total, "steps/s", PEER, statistics.median(ratios))
        yield Spread(GROUP, name, PARAMETERS, PEER, min(ratios), max(ratios))
    for name, rounds in found.items():
        worst = statistics.median(p99([x for own in durations for x in own]) for durations in rounds)
        yield Result(GROUP, f"p99 of {name}", PARAMETERS, worst, "ms")
    yield from _fairness(found[STREAM])


def _fairness(rounds: list[Durations]) -> Iterator[Finding]:
    """The slowest client's time for a step over that of the client in the middle."""
    means = [[statistics.fmean(own) for own in found] for found in rounds]
    ratios = [max(own) / statistics.median(own) for own in means]
    slowest = statistics.median(max(own) for own in means) * 1e6
    name, peer = f"slowest of {MOST} clients", "their median"
    yield Result(GROUP, name, PARAMETERS, slowest, "us", peer, statistics.median(ratios))
    yield Spread(GROUP, name, PARAMETERS, peer, min(ratios), max(ratios))


def _small_beside_large(options: Options) -> Iterator[Finding]:
    """The p99 of small steps alone, and while a large session of the same server steps on and on."""
    alone, beside = [], []
    with running_server("numba") as server, contextlib.ExitStack() as stack:
        small = stack.enter_context(contender("ours", SMALL, "--at", server.address))
        large = stack.enter_context(contender("ours", LARGE, "--at", server.address))
        for _ in range(options.rounds):
            alone.append(p99(together([small], 2 * options.seconds)[0]))
            beside.append(p99(together([small, large], 4 * options.seconds)[0]))
    rises = [b - a for a, b in zip(alone, beside, strict=True)]
    name = "rise of p99 beside a 100 MB step"
    yield Result(GROUP, "p99 of a step alone", SMALL, statistics.median(alone), "ms")
    yield Result(GROUP, "p99 of a step beside a 100 MB step", SMALL, statistics.median(beside), "ms")
    yield Result(GROUP, name, SMALL, statistics.median(rises), "ms")
    yield Spread(GROUP, name, SMALL, "", min(rises), max(rises))


def p99(seconds: list[float]) -> float:
    """The 99th percentile in milliseconds."""
    return float(np.percentile(seconds, 99)) * 1e3
