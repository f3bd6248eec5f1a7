"""A step beside a bare exchange of the same bytes, and the share of every layer of one over gRPC.

Step and exchange over gRPC are by its public API, with a synchronous client, an asyncio server and the
same experiments. In every exchange, as in a step, all bytes have arrived before the first one is sent back.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.bounds import SIZES
from benchmarks.contenders.probed_server import SAMPLING, run_probed_server
from benchmarks.contenders.remote import ContenderError, contender
from benchmarks.options import Options
from benchmarks.results import Failure, Finding, Result
from benchmarks.timing import Timed, interleave
from optserve import event_engine

GROUP = "layers"
LAYERS = ("C core", "Cython", "asyncio", "ours", "kernels")
"""gRPC's C core; gRPC's Cython and Python; the event loop; ours; the step's arithmetic and digest."""

STEP, STEP_OVER_DATA, ECHO = "step over gRPC", "step over a data connection", "bare gRPC"
FLAGS = {event_engine.VARIABLE: event_engine.WITHOUT_EVENT_ENGINE, event_engine.FORK_VARIABLE: "1"}


def run(options: Options) -> Iterator[Finding]:
    """Microseconds of a step and of an exchange, and percents of the processor time of a step."""
    for n in options.sizes_of(SIZES):
        peers = {"raw socket": "raw_socket"} | ({"Arrow Flight": "flight"} if options.heavy else {})
        yield from _beside(STEP, "grpc", {ECHO: "echo"}, n, options)
        yield from _beside(STEP_OVER_DATA, "data", peers, n, options)
        try:
            yield from _shares(n, options)
        except (ContenderError, OSError, RuntimeError) as error:
            yield Failure(GROUP, "shares", n, str(error))


def _beside(name: str, over: str, peers: Mapping[str, str], n: int, options: Options) -> Iterator[Finding]:
    """A step beside exchanges of the same bytes, all by processes of their own."""
    commands: dict[str, tuple[Any, ...]] = {
        name: ("ours", n, f"--over={over}"),
        **{peer: (module, n) for peer, module in peers.items()},
    }
    timed: dict[str, Timed] = {}
    with contextlib.ExitStack() as stack:
        for which, command in commands.items():
            try:
                timed[which] = stack.enter_context(contender(*command, **FLAGS)).time_steps
            except ContenderError as error:
                yield Failure(GROUP, which, n, str(error))
        times = interleave(timed, options.rounds, options.seconds)
    for peer in peers.keys() & timed.keys() if name in timed else ():
        yield from times.durations(GROUP, name, n, peer)
        yield from times.durations(GROUP, peer, n)


def _shares(n: int, options: Options) -> Iterator[Finding]:
    with (
        run_probed_server("numba", variables={**FLAGS, SAMPLING: "1"}) as (server, probe),
        contender("ours", n, "--over=grpc", "--at", server.address, **FLAGS) as client,
    ):
        repeats = 1 + int(4 * options.seconds / (client.time_steps(5) / 5))
        probe.start_sampling()
        answer = client.ask(do="sample", repeats=repeats)
        found = {"server": probe.stop_sampling(), "client": (answer["layers"], answer["functions"])}
    samples = {side: Counter(layers) for side, (layers, _) in found.items()}
    samples["both"] = samples["server"] + samples["client"]
    for side, counts in samples.items():
        for layer in LAYERS:
            share = 100 * counts[layer] / counts.total()
            note = ""
            if layer == "ours" and side in found:
                functions = found[side][1]
                note = ", ".join(f"{100 * n_of / counts.total():.0f} % {name}" for name, n_of in functions)
            yield Result(GROUP, f"{side}, {layer}", n, share, "%", note=note)
