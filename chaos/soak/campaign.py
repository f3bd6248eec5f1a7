"""A soak test: a server, a failing network, clients behind it, and a check of their results."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

import numpy as np

from chaos.actors import VALUES, export
from chaos.hostile_peers import hostile_peers
from chaos.model import Arrays
from chaos.soak.ledger import Ledger
from chaos.soak.probe import running_probe
from chaos.soak.trainee import PATIENCE, WAYS, Trainee
from chaos.soak.weather import Weather
from optserve.v1.session_pb2 import DurabilityMode, SessionSpec
from tests.integration.client import Client
from tests.integration.python_client.proxy import Proxy, running_proxy
from tests.integration.raw_stream import RawStream
from tests.support.server import RunningServer
from tests.support.watching import resident

LARGE: Arrays = {"w": np.linspace(-1, 1, 300_000, dtype=np.float32)}
"""More than one message holds, so that a cut can happen in the middle of a gradient."""

LONGEST_FAULT = 5.0
"""Seconds; an eighth of a soak where that is less."""

HOSTILE_SHARE = 0.2
"""Of hostile peers among all clients."""

CALM_SHARE = 1 / 4
"""Of the time, without hostile peers."""

CYCLE_SECONDS, MAX_CYCLES = 20.0, 10
"""Length of a calm phase with the attacks that follow it, at least, and how many there are at most.

Both kinds of phases alternate, because a machine is not equally fast all the time."""

SAMPLE = 0.25
"""Seconds between two looks at the server's memory."""

FORWARDED = "127.0.0.2"
"""Where the server's own two ports are forwarded: clients see no other port, and use both."""

Span = tuple[float, float]
"""Beginning and end of a phase, by the monotonic clock."""

OPTIMIZERS = ("adam", "momentum", "adagrad", "rmsprop")


@dataclass
class Findings:
    """What a soak found.

    Attributes:
        seconds: how long clients stepped.
        steps: steps answered, each once.
        over_data: those of them that a data connection carried.
        journaled: those of them that were on the disk before their answer.
        compared: how often parameters were compared with a model's, bit for bit.
        faults: of the network, by kind.
        longest_fault: in seconds.
        replayed: answers that the server had kept and gave again.
        repeats: calls that clients had given up and made again.
        stall: the longest that a client waited for the answer to a step, in seconds.
        memory: median resident bytes of the server in the third fifth, and in the last.
        attacks: of hostile peers, by kind.
        p99: of an honest client's steps beside the others, in seconds: without attacks, and during them.
        wrong: what may not be, for people.
    """

    seconds: float = 0.0
    steps: int = 0
    over_data: int = 0
    journaled: int = 0
    compared: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    longest_fault: float = 0.0
    replayed: int = 0
    repeats: int = 0
    stall: float = 0.0
    memory: tuple[float, float] = (0.0, 0.0)
    attacks: Counter[str] = field(default_factory=Counter)
    p99: tuple[float, float] = (0.0, 0.0)
    wrong: list[str] = field(default_factory=list)


def soak(
    server: RunningServer, clients: int, seconds: float, seed: int, hostile: float = HOSTILE_SHARE
) -> Findings:
    """Trains over a failing network, half of the clients with data connections where they use them.

    For three quarters of the time, in several phases, hostile peers attack the server itself.

    Args:
        server: with a data directory.
        clients: how many; every fourth shares its session with the one before it.
        seconds: how long.
        seed: of faults, gradients and specifications; the moments are the machine's own.
        hostile: share of hostile peers among all clients.
    """
    found, random = Findings(), Random(seed)
    with Client(server.address) as direct, _network(server, direct) as proxies:
        trainees = _trainees(direct, clients, seed)
        weather = Weather(proxies, random, min(LONGEST_FAULT, seconds / 8))
        over, samples, began = threading.Event(), list[int](), time.monotonic()
        threads = [
            _start(trainee.run, proxies[number // len(WAYS) % 2].address, over)
            for number, trainee in enumerate(trainees)
        ]
        threads.append(_start(_sample, server, over, samples))
        direct.create(VALUES, session_id="soak-probe")
        peers = round(clients * hostile / (1 - hostile))
        with running_probe(server.address, "sessions/soak-probe") as probe:
            calm, attacked = list[Span](), list[Span]()
            cycles = max(1, min(MAX_CYCLES, int(seconds / CYCLE_SECONDS)))
            for cycle in range(cycles):
                calm.append(_run_phase(weather, seconds / cycles * CALM_SHARE))
                with hostile_peers(
                    server.address, peers, seed + cycle * peers, trainees[1].ledger.name
                ) as attacks:
                    attacked.append(_run_phase(weather, seconds / cycles * (1 - CALM_SHARE)))
                found.attacks += attacks
        found.p99 = probe.p99(calm), probe.p99(attacked)
        if not probe.steps:
            found.wrong.append("the honest client without faults ended")
        over.set()
        found.seconds = time.monotonic() - began
        if not _join(threads):
            found.wrong.append("a client hangs")
            return found
        fifth = max(1, len(samples) // 5)
        found.memory = (median(samples[2 * fifth : 3 * fifth]), median(samples[-fifth:]))
        found.faults, found.longest_fault = weather.faults, weather.longest_fault
        _conclude(direct, trainees, found)
    found.wrong += [f"logged: {line}" for line in server.log() if line["level"] in ("error", "critical")]
    return found


def _run_phase(weather: Weather, seconds: float) -> Span:
    began = time.monotonic()
    weather.run(began + seconds)
    return began, time.monotonic()


@contextlib.contextmanager
def _network(server: RunningServer, direct: Client) -> Iterator[list[Proxy]]:
    """The server's port under its own number, then under another, and the port of data connections."""
    host, port = server.address.split(":")
    with RawStream(direct) as stream:
        data = stream.offer().port
    with (
        running_proxy((host, int(port)), (FORWARDED, int(port))) as same,
        running_proxy((host, int(port))) as mapped,
        running_proxy((host, data), (FORWARDED, data)) as beside,
    ):
        yield [same, mapped, beside]


def _start(target: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _join(threads: Sequence[threading.Thread]) -> bool:
    """Waits until all have ended; whether they have."""
    end = time.monotonic() + 2 * PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _trainees(direct: Client, clients: int, seed: int) -> list[Trainee]:
    ways, trainees = tuple(WAYS), list[Trainee]()
    ledger: Ledger | None = None
    for number in range(clients):
        if ledger is None or number % 4 != 3:
            ledger = _ledger(direct, number)
        trainees.append(Trainee(ledger, ways[number % len(ways)], seed * clients + number))
    return trainees


def _ledger(direct: Client, number: int) -> Ledger:
    """A session made on the server; every other one is journaled, and a few are large."""
    spec = SessionSpec()
    getattr(spec.optimizer, OPTIMIZERS[number // 2 % len(OPTIMIZERS)]).SetInParent()
    modes = (DurabilityMode.DURABILITY_MODE_JOURNAL, DurabilityMode.DURABILITY_MODE_EPHEMERAL)
    spec.durability.mode = modes[number % 2]
    values = LARGE if number % 16 in (1, 6) else VALUES
    name = f"soak-{number}"
    direct.create(values, spec, session_id=name)
    return Ledger(f"sessions/{name}", values, spec)


def _sample(server: RunningServer, over: threading.Event, samples: list[int]) -> None:
    while not over.wait(SAMPLE):
        samples.append(resident(server.process.pid))


def _conclude(direct: Client, trainees: Sequence[Trainee], found: Findings) -> None:
    """Compares every session as it is in the end, and adds up.

    Clients that ended come first: a session that one of them stepped may have a step without an answer.
    """
    for number, trainee in enumerate(trainees):
        if trainee.failure is not None:
            found.wrong.append(f"client {number} ended: {trainee.failure!r}")
        if not trainee.answered:
            found.wrong.append(f"client {number} never got an answer")
        found.over_data += trainee.over_data
        found.replayed += trainee.replayed
        found.repeats += trainee.repeats
        found.stall = max(found.stall, trainee.stall)
    for ledger in {id(trainee.ledger): trainee.ledger for trainee in trainees}.values():
        ledger.close(export(direct, ledger.name))
        found.wrong += ledger.wrong
        found.steps += ledger.steps
        found.compared += ledger.compared
        if ledger.spec.durability.mode == DurabilityMode.DURABILITY_MODE_JOURNAL:
            found.journaled += ledger.steps
