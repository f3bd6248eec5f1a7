"""A client that trains, whatever the network does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

import optserve
from chaos.model import Arrays, draw
from chaos.soak.ledger import Ledger
from optserve import Retry, errors
from optserve._transport.data_channel import DataChannel

T = TypeVar("T")

IMPATIENT = 1.5
"""Seconds after which a call is given up, to be made again."""

PATIENCE = 60.0
"""Seconds within which a step must be answered, whatever happens."""

PENDING = 4
"""Steps under way at once on a pipelined stream."""


class Trainee:
    """One worker of a session.

    Args:
        ledger: of the session.
        way: how it steps, one of `WAYS`.
        seed: of its gradients.

    Attributes:
        answered: steps answered.
        over_data: those of them that a data connection carried.
        replayed: answers that the server had kept and gave again.
        repeats: calls that were given up and made again.
        stall: the longest that a step took until it was answered, in seconds.
        failure: why it ended early.
    """

    def __init__(self, ledger: Ledger, way: str, seed: int) -> None:
        self.ledger = ledger
        self._way = way
        self._rng = np.random.default_rng(seed)
        self.answered = 0
        self.over_data = 0
        self.replayed = 0
        self.repeats = 0
        self.stall = 0.0
        self.failure: BaseException | None = None

    def run(self, address: str, over: threading.Event) -> None:
        """Steps until it is over and every step is answered."""
        retry = Retry(attempts=1000)
        try:
            with optserve.connect(address, timeout=PATIENCE, retry=retry, shared_memory=False) as client:
                session = self._insist(lambda: client.session(self.ledger.name))
                WAYS[self._way](self, session, over)
        except BaseException as error:
            self.failure = error

    def _call(self, session: optserve.SessionHandle, over: threading.Event) -> None:
        """Steps by calls of their own; one that takes long is given up and made again."""
        while not over.is_set():
            gradient, pull = self._gradient(), bool(self._rng.integers(2))
            began = time.monotonic()
            result = self._insist(partial(session.step, gradient, pull=pull, timeout=IMPATIENT))
            self._note(gradient, result, began)

    def _stream(self, session: optserve.SessionHandle, over: threading.Event) -> None:
        """Steps one by one on a stream, which reconnects automatically."""
        with session.stream(pull=True) as stream:
            while not over.is_set():
                gradient, began = self._gradient(), time.monotonic()
                self._note(gradient, stream.step(gradient), began)
                self._count(stream)

    def _pipeline(self, session: optserve.SessionHandle, over: threading.Event) -> None:
        """Several steps under way at once on a stream; impatient ones are asked for again."""
        pending: deque[tuple[Arrays, optserve.PendingStep, float]] = deque()
        with session.stream(pull=True, window=2 * PENDING) as stream:
            while pending or not over.is_set():
                if len(pending) < PENDING and not over.is_set():
                    gradient = self._gradient()
                    pending.append((gradient, stream.submit(gradient), time.monotonic()))
                    continue
                gradient, step, began = pending.popleft()
                self._note(gradient, self._insist(partial(step.result, IMPATIENT)), began)
                self._count(stream)

    def _count(self, stream: optserve.StepStream) -> None:
        """Notes which way the last step of a stream went."""
        self.over_data += isinstance(stream._engine._channel, DataChannel)

    def _gradient(self) -> Arrays:
        return draw(self._rng, self.ledger.values)

    def _note(self, gradient: Arrays, result: optserve.StepResult, began: float) -> None:
        self.stall = max(self.stall, time.monotonic() - began)
        self.answered += 1
        self.replayed += result.replayed
        self.ledger.note(gradient, result)

    def _insist(self, call: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return call()
            except (errors.Unavailable, errors.DeadlineExceeded):
                if time.monotonic() > end:
                    raise
                self.repeats += 1


WAYS = {"call": Trainee._call, "stream": Trainee._stream, "pipeline": Trainee._pipeline}
"""How a trainee may step."""
