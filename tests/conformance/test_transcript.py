"""The fault transcript and mixed sessions, with the Python client's driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.mixed import STEPS, TURNS, same_bits, train_in_turn, train_synchronously
from tests.conformance.served import Client
from tests.conformance.training import Gradients, Tensors
from tests.conformance.transcript import INITIAL, gradients_at, parameters_without_faults, play, spec
from tests.support.server import RunningServer

WORKERS = [DRIVERS["python"]] * 3


@pytest.fixture(scope="module")
def expected() -> Tensors:
    return parameters_without_faults()


@pytest.mark.slow
def test_transcript(expected: Tensors, tmp_path: Path) -> None:
    faults = play(DRIVERS["python"], tmp_path, expected)
    assert min(faults[kind] for kind in ("failpoints", "cut calls", "deadlines", "restarts", "fences")) > 0


def test_bits_of_a_run_are_those_of_its_order(expected: Tensors) -> None:
    """So that the comparison at the end of a transcript could fail."""
    changed = {name: value.copy() for name, value in expected.items()}
    changed["w"].reshape(-1)[7] = np.nextafter(changed["w"].reshape(-1)[7], np.float32(9))
    assert not same_bits(changed, expected)
    assert same_bits(expected, expected)


def train_alone(server: RunningServer, gradients: list[Tensors]) -> Tensors:
    """The parameters after steps with these gradients, by generated stubs."""
    client = Client(server.address)
    name = client.create(spec(), INITIAL)
    for step in gradients:
        client.step(name, Gradients(step, {}))
    values = client.pull(name, 0)
    client.close()
    return values


def test_workers_in_turn(server: RunningServer) -> None:
    steps = TURNS * len(WORKERS) * 2
    alone = train_alone(server, [gradients_at(step) for step in range(steps)])
    assert same_bits(train_in_turn(WORKERS, server.address), alone)


def test_synchronous_workers(server: RunningServer) -> None:
    """As one worker with the mean of their gradients, added in the order of ranks."""
    means = []
    for step in range(STEPS):
        given = [gradients_at(step * len(WORKERS) + rank) for rank in range(len(WORKERS))]
        sums = {name: given[0][name] + given[1][name] + given[2][name] for name in INITIAL}
        means.append({name: (total / len(WORKERS)).astype(total.dtype) for name, total in sums.items()})
    assert same_bits(train_synchronously(WORKERS, server.address), train_alone(server, means))
