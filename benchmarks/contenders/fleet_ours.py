"""Workers of one session, a process each, in one of the modes of coordination."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import optserve
from benchmarks.contenders import fleet
from benchmarks.contenders.worker import Parameters
from tests.support.server import running_server

TIMEOUT = 300.0
"""Seconds of a call: all workers start at the same time."""

LEASE = 1e5
"""Seconds: all processes are stopped while others have their turn."""

MODES: Mapping[str, Callable[[int], optserve.Coordination]] = {
    "sync": lambda count: optserve.CoordinationSync(min_replicas=count),
    "async": lambda count: optserve.CoordinationAsync(),
    "bounded": lambda count: optserve.CoordinationBounded(4),
    "rounds": lambda count: optserve.CoordinationRounds(count),
}
"""By name: the coordination of so many workers."""


def make_step(rank: int, arguments: Sequence[str]) -> fleet.Step:
    """The step of a worker, or its part of a round, after which it waits for the next one."""
    address, name, size, mode = arguments
    client = optserve.connect(address, timeout=TIMEOUT)
    member = client.session(name).join(f"worker-{rank}", lease=LEASE)
    gradient = fleet.gradient_of(rank, int(size))

    def step() -> Parameters:
        values: Parameters = member.step({"w": gradient}).parameters["w"]
        return values

    def take_part() -> Parameters:
        at = member.parameters_step
        member.step({"w": gradient}, pull=None)
        values: Parameters = member.pull(newer_than_step=at)["w"]
        return values

    return take_part if mode == "rounds" else step


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--workers", type=int, required=True)
    stated = parser.parse_args()
    with running_server("numba") as server, optserve.connect(server.address, timeout=TIMEOUT) as client:
        optimizer: optserve.optimizers.Optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)
        if stated.mode == "rounds":
            optimizer = optserve.optimizers.SGD(learning_rate=1.0)
        coordination = MODES[stated.mode](stated.workers)
        values = {"w": np.zeros(stated.size, np.float32)}
        session = client.create_session(values, optimizer, coordination=coordination)
        arguments = server.address, session.name, str(stated.size), stated.mode
        with fleet.workers_of(make_step, stated.workers, arguments) as workers:
            fleet.serve(
                functools.partial(fleet.time_together, workers), functools.partial(fleet.take_steps, workers)
            )


if __name__ == "__main__":
    main()
