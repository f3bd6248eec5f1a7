"""One training with four worker processes, observed from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import optserve
from demo.data import Array, Examples, digits
from demo.digits import SEED, TEST_COUNT, accuracy, first_weights, forward
from optserve import errors, optimizers
from workers.modes import WORKERS
from workers.worker import RATE

SLOW, KILLED = WORKERS - 1, 1
"""Numbers of the slow worker and of the killed worker."""

KILL_AT = 0.4
"""Share of the time after which a worker is killed."""

SAMPLE_SECONDS = 0.02
"""Least time between two measurements of the loss."""


WAIT_SECONDS = 0.5
"""Time in which a step is waited for, before the same loss is noted again."""

END_SECONDS = 20.0
"""Time that a worker has to end after its session was deleted."""


@dataclass
class Run:
    """What was observed of one training.

    Attributes:
        mode: its name.
        seconds: time since the start, of each measurement.
        steps: the session's step.
        losses: mean cross-entropy on the training set.
        killed_at: seconds after which a worker was killed.
        accuracy: on the test set at the end, 0 to 1.
        workers: the workers at the end.
    """

    mode: str
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    killed_at: float = 0.0
    accuracy: float = 0.0
    workers: list[optserve.Worker] = field(default_factory=list)

    @property
    def steps_per_second(self) -> float:
        """Steps of the session."""
        return self.steps[-1] / self.seconds[-1]

    @property
    def contributions_per_second(self) -> float:
        """Contributions of all workers, of which several may make a step."""
        return sum(worker.contributions for worker in self.workers) / self.seconds[-1]


@dataclass(frozen=True)
class Pace:
    """How long a training takes, and a batch on the fast workers, in seconds; how often on the slow one."""

    seconds: float
    batch_seconds: float
    slowdown: float


def train(address: str, mode: str, coordination: optserve.Coordination, pace: Pace) -> Run:
    """Trains for some seconds; kills one of the workers on the way."""
    training, test = digits().split(TEST_COUNT, SEED)
    with optserve.connect(address) as client:
        optimizer = optimizers.SGD(learning_rate=1.0 if mode == "rounds" else RATE)
        session = client.create_session(first_weights(), optimizer, seed=SEED, coordination=coordination)
        processes = [_start(address, session.name, number, pace) for number in range(WORKERS)]
        try:
            _wait_for_members(session, processes)
            run, weights = _observe(session, processes, Run(mode), training, pace.seconds)
            run.workers, run.accuracy = session.workers(), accuracy(weights, test)
        finally:
            session.delete()  # which ends the workers
            _end(processes)
    return run


def _start(address: str, session: str, number: int, pace: Pace) -> subprocess.Popen[str]:
    seconds = pace.batch_seconds * (pace.slowdown if number == SLOW else 1)
    command = [sys.executable, "-m", "workers.worker", "--server", address, "--session", session]
    command += ["--number", str(number), "--batch-seconds", str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)


def _wait_for_members(session: optserve.SessionHandle, processes: Sequence[subprocess.Popen[str]]) -> None:
    while len(session.workers()) < WORKERS:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a worker did not start")
        time.sleep(SAMPLE_SECONDS)


def _observe(
    session: optserve.SessionHandle,
    processes: Sequence[subprocess.Popen[str]],
    run: Run,
    training: Examples,
    seconds: float,
) -> tuple[Run, dict[str, Array]]:
    """Starts the workers, and measures the loss of each step, or of as many as there is time for."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    begun, passed, step = time.perf_counter(), 0.0, 0
    weights = session.pull()
    while passed < seconds:
        if not run.killed_at and passed > KILL_AT * seconds:
            processes[KILLED].kill()
            run.killed_at = passed
        run.seconds.append(passed)
        run.steps.append(step)
        run.losses.append(loss(weights, training))
        time.sleep(SAMPLE_SECONDS)
        try:
            weights = session.pull(newer_than_step=step, timeout=WAIT_SECONDS)
            step = weights.step
        except errors.DeadlineExceeded:
            pass  # no step; the workers wait for one of them
        passed = time.perf_counter() - begun
    return run, weights


def loss(weights: Mapping[str, Array], examples: Examples) -> float:
    """The mean cross-entropy of softmax."""
    _, logits = forward(dict(weights), examples.inputs)
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = shifted[np.arange(len(examples)), examples.labels]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - right))


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
