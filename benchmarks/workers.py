"""Workers that train one model together, beside what one would use instead; and with a slow one.

Every contender is a process with a process for each worker, and all are stopped while others have their
turn. A step has a gradient of every worker, and each worker gets the parameters; under ASYNC and BOUNDED
it has that of one. Gradients differ by worker, and before anything is timed, the parameters are compared with
the formula in float64.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import optserve
from benchmarks.contenders.fleet import gradient_of
from benchmarks.contenders.remote import ROOT, ContenderError, Remote, contender, contender_of
from benchmarks.contenders.worker import Parameters
from benchmarks.end_to_end import agree
from benchmarks.options import Options
from benchmarks.results import Failure, Finding, Result, Spread
from benchmarks.timing import interleave
from tests.support.server import running_server

GROUP, SLOW_GROUP = "workers", "workers, one of them slow"
SIZES = (100_000, 1_000_000)
FLOWER_PYTHON = ROOT / ".venv-flower/bin/python"
CHECKED_STEPS = 3
TOLERANCE = 1e-5

FEW, SLOWDOWN, BATCH_SECONDS, SLOW_SIZE = 4, 10, 0.02, 10_000
WARM_UP_STEPS = 10
"""Of the measurement with a slow worker: how many there are, how much slower it is, and parameters."""


@dataclass(frozen=True)
class Fleet:
    """A contender.

    Attributes:
        module: of `benchmarks.contenders`.
        arguments: of its command line.
        python: its interpreter.
        has_own_steps: whether each worker's gradient is a step of its own.
        is_round: whether the parameters are the mean of the workers' after training.
    """

    module: str
    arguments: tuple[str, ...] = ()
    python: Path = Path(sys.executable)
    has_own_steps: bool = False
    is_round: bool = False


SYNC, ROUNDS, DDP, RAY, FLOWER = "SYNC", "ROUNDS", "torch DDP", "Ray parameter server", "Flower FedAvg"
FLEETS = {
    SYNC: Fleet("fleet_ours", ("--mode=sync",)),
    "ASYNC": Fleet("fleet_ours", ("--mode=async",), has_own_steps=True),
    "BOUNDED": Fleet("fleet_ours", ("--mode=bounded",), has_own_steps=True),
    ROUNDS: Fleet("fleet_ours", ("--mode=rounds",), is_round=True),
    DDP: Fleet("fleet_ddp"),
    RAY: Fleet("fleet_ray"),
    FLOWER: Fleet("fleet_flower", python=FLOWER_PYTHON, is_round=True),
}
PEERS = {SYNC: (DDP, RAY), ROUNDS: (FLOWER,)}
"""What each mode is compared with."""


@dataclass(frozen=True)
class Setting:
    """What is measured with a slow worker.

    Attributes:
        coordination: of the session.
        workers: how many there are.
        has_slow: whether one of them is slow.
        contributions: of a step.
    """

    coordination: optserve.Coordination
    workers: int
    has_slow: bool
    contributions: int


ALONE, OF_SYNC = f"SYNC, {FEW - 1} workers, none of them slow", f"SYNC, {FEW - 1} of {FEW}"
SETTINGS = {
    ALONE: Setting(optserve.CoordinationSync(), FEW - 1, False, FEW - 1),
    OF_SYNC: Setting(optserve.CoordinationSync(replicas_to_aggregate=FEW - 1), FEW, True, FEW - 1),
    f"SYNC, {FEW} of {FEW}": Setting(optserve.CoordinationSync(), FEW, True, FEW),
    "BOUNDED, lead of 8": Setting(optserve.CoordinationBounded(8), FEW, True, 1),
    "ASYNC": Setting(optserve.CoordinationAsync(), FEW, True, 1),
}
"""By name."""


def run(options: Options) -> Iterator[Finding]:
    """Steps per second, and contributions per second with a slow worker."""
    for n in options.sizes_of(SIZES):
        yield from _beside(n, options)
    yield from _with_a_slow_worker(options)


def _beside(n: int, options: Options) -> Iterator[Finding]:
    with contextlib.ExitStack() as stack:
        timed: dict[str, Remote] = {}
        for name, fleet in FLEETS.items():
            if not options.heavy and fleet.module != "fleet_ours":
                continue
            try:
                remote = stack.enter_context(_running(fleet, n, options.workers))
                _check(remote, fleet, n, options.workers)
                remote.rest()
                timed[name] = remote
            except (ContenderError, AssertionError, OSError) as error:
                yield Failure(GROUP, name, n, str(error))
        times = interleave({k: r.time_alone for k, r in timed.items()}, options.rounds, options.seconds)
        for name in timed:
            steps = options.workers if FLEETS[name].has_own_steps else 1
            unit = "rounds/s" if FLEETS[name].is_round else "steps/s"
            peers = [peer for peer in PEERS.get(name, ()) if peer in timed]
            for peer in peers or [""]:
                yield from times.rates(GROUP, name, n, unit, steps, peer)


def _running(fleet: Fleet, n: int, count: int) -> contextlib.AbstractContextManager[Remote]:
    arguments = n, *fleet.arguments, f"--workers={count}"
    return contender_of(fleet.python, fleet.module, *arguments, OMP_NUM_THREADS="1")


def _check(remote: Remote, fleet: Fleet, n: int, count: int) -> None:
    """Compares the parameters after some steps, where they do not depend on the order of arrival.

    Raises:
        AssertionError: they differ.
    """
    values = remote.check(steps=CHECKED_STEPS)
    if not fleet.has_own_steps:
        agree(values, compute_mean_steps(n, count, fleet.is_round), TOLERANCE)


def compute_mean_steps(n: int, count: int, is_round: bool) -> Parameters:
    """The parameters after some steps of the mean of ``count`` workers, by the formula in float64."""
    mean: Parameters = np.stack([gradient_of(rank, n) for rank in range(count)]).mean(0, np.float64)
    if is_round:
        moved: Parameters = CHECKED_STEPS * mean
        return moved
    p, m, v = (np.zeros_like(mean) for _ in range(3))
    for t in range(1, CHECKED_STEPS + 1):
        m, v = 0.9 * m + 0.1 * mean, 0.999 * v + 0.001 * mean * mean
        p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def _with_a_slow_worker(options: Options) -> Iterator[Finding]:
    """Workers that compute for a while, one of them for ten times as long."""
    seconds = 100 * BATCH_SECONDS * options.seconds
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with running_server("numba") as server, optserve.connect(server.address) as client:
        for _ in range(options.rounds):
            for name, setting in SETTINGS.items():
                found[name].append(_observe(client, server.address, setting, seconds))
    for name, rates in found.items():
        rate = statistics.median(rates)
        used = rate * SETTINGS[name].contributions
        yield Result(SLOW_GROUP, f"{name}, gradients", FEW, used, "gradients/s")
        if name != OF_SYNC:
            yield Result(SLOW_GROUP, name, FEW, rate, "steps/s")
            continue
        ratios = [mine / its for mine, its in zip(rates, found[ALONE], strict=True)]
        yield Result(SLOW_GROUP, name, FEW, rate, "steps/s", ALONE, statistics.median(ratios))
        yield Spread(SLOW_GROUP, name, FEW, ALONE, min(ratios), max(ratios))


def _observe(client: optserve.Client, address: str, setting: Setting, seconds: float) -> float:
    """Steps per second."""
    values = {"w": np.zeros(SLOW_SIZE, np.float32)}
    optimizer = optserve.optimizers.Adam()
    session = client.create_session(values, optimizer, coordination=setting.coordination)
    with contextlib.ExitStack() as stack:
        for rank in range(setting.workers):
            is_slow = setting.has_slow and rank == setting.workers - 1
            pause = BATCH_SECONDS * (SLOWDOWN if is_slow else 1)
            stack.enter_context(contender("member", SLOW_SIZE, address, session.name, rank, pause))
        session.pull(newer_than_step=session.get().step + WARM_UP_STEPS, timeout=60)
        begun, before = time.perf_counter(), session.get().step
        time.sleep(seconds)
        rate = (session.get().step - before) / (time.perf_counter() - begun)
        session.delete()  # which ends the workers
    return rate
