"""One worker: trains on its share of the digits until the session is deleted.

    python -m workers.worker --server localhost:50051 --session digits --number 0

A line on its standard input starts it, so that all workers begin at the same time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

import optserve
from demo.data import Array, Examples, digits
from demo.digits import BATCH, SEED, TEST_COUNT, gradients
from optserve import errors
from workers.modes import WORKERS

LEASE = 1.0
"""Seconds after which a killed worker is taken for lost."""

RATE = 0.2
"""Learning rate of the session, and of a worker's own steps in a round."""

LOCAL_STEPS = 4
"""Steps that a worker takes on its own before it sends the change of its weights in a round."""

RARE_DELAY = 10
"""How many times longer one batch in ten takes, on every worker."""


def share(number: int) -> Examples:
    """The training examples of one worker: every fourth."""
    examples, _ = digits().split(TEST_COUNT, SEED)
    return examples.take(np.arange(number, len(examples), WORKERS))


class Batches:
    """Batches of a worker's examples, each after the time that a larger model would need.

    Args:
        number: which worker's.
        seconds: that a batch takes; one in ten takes RARE_DELAY times as long.
    """

    def __init__(self, number: int, seconds: float) -> None:
        self._examples, self._seconds = share(number), seconds
        self._rng = np.random.default_rng([SEED, number])

    def __iter__(self) -> Iterator[Examples]:
        while True:
            time.sleep(self._seconds * (RARE_DELAY if self._rng.random() < 0.1 else 1))
            yield self._examples.take(self._rng.integers(len(self._examples), size=BATCH))


def train(member: optserve.Member, batches: Batches) -> None:
    """Contributes gradients; the answer has the parameters for the next one."""
    weights: dict[str, Array] = member.pull()
    for batch in batches:
        weights = member.step(gradients(weights, batch)).parameters


def train_in_rounds(member: optserve.Member, batches: Batches) -> None:
    """Trains on its own, contributes the change of the weights, and waits for the next round."""
    weights = member.pull()
    source = iter(batches)
    while True:
        own: dict[str, Array] = {name: array.copy() for name, array in weights.items()}
        for _ in range(LOCAL_STEPS):
            for name, gradient in gradients(own, next(source)).items():
                own[name] -= RATE * gradient
        change = {name: own[name] - weights[name] for name in own}
        try:
            member.step(change, example_count=LOCAL_STEPS * BATCH, pull=None)
        except errors.RoundClosed:
            weights = member.pull()
        else:  # it was added to the round
            weights = member.pull(newer_than_step=member.parameters_step)


def main() -> int:
    """Runs a worker; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.worker", description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--session", required=True, metavar="NAME")
    parser.add_argument("--number", type=int, required=True, choices=range(WORKERS))
    parser.add_argument("--batch-seconds", type=float, default=0.0, metavar="S")
    options = parser.parse_args()
    batches = Batches(options.number, options.batch_seconds)
    try:
        with optserve.connect(options.server) as client:
            session = client.session(options.session)
            in_rounds = isinstance(session.spec.coordination, optserve.CoordinationRounds)
            member = session.join(f"worker-{options.number}", lease=LEASE)
            sys.stdin.readline()
            while True:
                try:
                    (train_in_rounds if in_rounds else train)(member, batches)
                except errors.Fenced:  # it was silent for too long, and taken for lost
                    member.close()
                    member = session.join(member.worker, lease=LEASE)
    except errors.NotFound:
        pass  # the session is deleted: the training is over
    return 0


if __name__ == "__main__":
    sys.exit(main())
