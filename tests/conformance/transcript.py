"""The fault transcript: 1,000 steps of one worker through every fault that a client has to survive.

The server is killed in a step, at each failpoint, and starts again on its journal; connections are cut;
the server stays away for a while, and cancels calls; deadlines expire within a stream; tokens, sessions,
expected steps and gradients are wrong; the worker is fenced; the client starts again. What a driver has to
answer is the same for every client: reasons, codes, whether anything was applied, steps and sequences
without a gap, and at the end the parameters of a run without faults, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clients.python.conformance.stubs import driver_pb2 as pb
from optserve.v1 import error_reason_pb2 as reasons
from optserve.v1.error_reason_pb2 import ErrorReason
from optserve.v1.session_pb2 import SessionSpec
from optserve.v1.session_service_pb2 import DeleteSessionRequest, ParameterInit
from optserve.v1.worker_service_pb2 import JoinSessionRequest
from optserve.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.conformance import served
from tests.conformance.calls import tensors
from tests.conformance.cancelling import CancellingProxy
from tests.conformance.drivers import Driver, running_driver
from tests.conformance.killable import Killable
from tests.conformance.tensors import array_of, tensor
from tests.conformance.training import Gradients, Tensors
from tests.support.server import running_server

STEPS = 1000
WINDOW = 4
"""Steps in flight on a stream."""

WORKER = "transcript"
INITIAL: Tensors = {
    "w": np.linspace(-1, 1, 2000, dtype=np.float32).reshape(40, 50),
    "b": np.linspace(0, 1, 50),
}

IS_RECORDED = {
    "before-journal-write": False,
    "during-journal-write": False,
    "after-journal-write": True,
    "before-journal-fsync": True,
    "after-journal-fsync": True,
    "before-apply": True,
    "after-apply": True,
    "before-ack": True,
}
"""Whether a step is in the journal, by where the server is killed in it. A repeat of one that is gets the
stored result."""

ROUND = 8
"""Steps of one call of a driver."""

PASSES = ROUND + 1
"""How often a server comes to its failpoint until it is killed there: not within the call of a driver in
which it was started."""

CUTS = 32
DEADLINES = 3
TIMEOUT = 0.5
"""Seconds of a deadline that is meant to expire."""

RECONNECTION_SECONDS = 3.0
"""Bound on the time from when a server listens again to the next step. gRPC's own pauses between two
connections may be 5 s and more."""

UNAUTHENTICATED, NOT_FOUND, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 16, 5, 3, 4
FAILED_PRECONDITION, ABORTED = 9, 10
"""gRPC's status codes."""


def spec() -> SessionSpec:
    """Adam, whose state shows a step that is lost, doubled, or out of order."""
    wanted = SessionSpec()
    wanted.optimizer.adam.learning_rate = 0.01
    return wanted


def gradients_at(step: int) -> Tensors:
    """The gradients of a step, which is counted from 0."""
    rng = np.random.default_rng(step)
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in INITIAL.items()}


def parameters_without_faults() -> Tensors:
    """What the steps make of the parameters, by generated stubs and one unary call after the other."""
    with running_server("numpy") as server, contextlib.closing(served.Client(server.address)) as client:
        name = client.create(spec(), INITIAL)
        for step in range(STEPS):
            found = client.step(name, Gradients(gradients_at(step), {})).parameters
        return {named.name: array_of(named.tensor) for named in found}


def play(command: Sequence[str], root: Path, expected: Tensors) -> Counter[str]:
    """Plays the transcript with a client's driver.

    Args:
        command: command line of the driver.
        root: an empty directory.
        expected: of `parameters_without_faults`.

    Returns:
        What happened, by kind.

    Raises:
        AssertionError: an answer is another one than is expected of every client.
        RuntimeError: the driver ended, or did not answer.
    """
    with (
        contextlib.closing(Killable(root)) as service,
        contextlib.closing(Transcript(command, service)) as it,
    ):
        it.open()
        it.take(ROUND)
        it.refusals()
        it.kills()
        it.cuts()
        it.outages()
        it.cancellations()
        it.deadlines()
        it.fences()
        it.restarts()
        it.take(STEPS - it.step, 2 * WINDOW)
        it.compare(expected)
        it.deletion()
        return it.faults + Counter(kills=service.kills, cuts=service.proxy.cuts)


class Transcript:
    """One driver in one session.

    Args:
        command: command line of the driver.
        service: the server.

    Attributes:
        step: steps that were applied so far, which is the last sequence as well.
        faults: what happened, by kind.
    """

    def __init__(self, command: Sequence[str], service: Killable) -> None:
        self._command, self._service = command, service
        self._driver, self._running = self._start()
        self._session = ""
        self.step = 0
        self.faults: Counter[str] = Counter()

    def close(self) -> None:
        """Ends the driver."""
        self._running.close()

    def open(self, target: str = "") -> None:
        """Connects, and creates the session the first time; opens it under the same worker's name later."""
        self._connect(target=target)
        parameters = [ParameterInit(name=n, value=tensor(a)) for n, a in INITIAL.items()]
        call = pb.OpenCall(session=self._session, worker=WORKER)
        if not self._session:
            call = pb.OpenCall(spec=spec(), parameters=parameters, worker=WORKER)
        found = self._ask("open", call)
        assert self._session in ("", found.session)
        assert found.step == self.step, f"opened at step {found.step}, not {self.step}"
        self._session = found.session

    def take(self, count: int, window: int = 0, **options: Any) -> list[bool]:
        """Takes steps that all succeed; returns for each whether it was replayed."""
        answer = self._steps(count, window, **options)
        assert not answer.HasField("refusal"), f"at step {self.step}: {answer.refusal}"
        self._follow(answer, count)
        return [outcome.replayed for outcome in answer.outcomes]

    def refusals(self) -> None:
        """Wrong token, unknown session, unexpected step, and a gradient that is not finite."""
        self._connect(token="wrong")
        self._check_refused("open", pb.OpenCall(session=self._session), "UNAUTHENTICATED", UNAUTHENTICATED)
        self._connect()
        self._check_refused("open", pb.OpenCall(session="sessions/unknown"), "SESSION_NOT_FOUND", NOT_FOUND)
        self.open()
        for window in (0, WINDOW):
            self._check_refused_steps("STEP_MISMATCH", ABORTED, 0, window, expected_step=self.step + 3)
            self.take(ROUND, window, expected_step=self.step)
            for good in (0, 3):
                self._check_refused_steps("NON_FINITE_GRADIENT", INVALID_ARGUMENT, good, window, bad=good)
                self.take(1, window)
            self.open()

    def kills(self) -> None:
        """Kills the server in a step, at every failpoint on its way."""
        places = [*IS_RECORDED, "after-ack"]
        self._service.restart(f"{places[0]}:{PASSES}")
        for number, name in enumerate(places):
            window = (0, WINDOW)[number % 2]
            replayed: list[bool] = []
            following = f"{places[number + 1]}:{PASSES}" if number + 1 < len(places) else ""
            with self._service.starting_again(following) as again:
                while not again.is_set():
                    assert len(replayed) < 10 * ROUND, f"no step came to {name}"
                    replayed += self.take(ROUND, window)
            if name in IS_RECORDED and not window:
                assert sum(replayed) == IS_RECORDED[name], f"{sum(replayed)} steps were replayed after {name}"
            self.faults["failpoints"] += 1
            self.open()

    def cuts(self) -> None:
        """Cuts all connections when some bytes have passed: within a gradient, or within an answer."""
        proxy = self._service.proxy
        for number in range(CUTS):
            before = proxy.cuts
            if number % 4 < 2:
                proxy.upstream_budget = 300 + 7919 * number % 60_000
            else:
                proxy.downstream_budget = 40 + 97 * number % 600
            self.take(ROUND, (0, WINDOW)[number // 4 % 2])
            proxy.upstream_budget = proxy.downstream_budget = None
            self.faults["cut calls"] += proxy.cuts > before
            if number % 4 == 3:
                self.open()

    def outages(self) -> None:
        """Kills the server, and starts it again on its port while the client wants to take a step."""
        _, port = self._service.target
        for window in (0, WINDOW):
            self.open(self._service.server.address)
            self.take(2, window)
            self._service.server.process.kill()
            with ThreadPoolExecutor(1) as pool:
                taken = pool.submit(self.take, 1, window)
                self._service.restart(port=port)
                begin = time.monotonic()
                taken.result()
            seconds = time.monotonic() - begin
            assert seconds <= RECONNECTION_SECONDS, f"the next step came {seconds:.1f} s after the server"
            self.faults["ms until reconnected"] += round(seconds * 1000)
        self.open()

    def cancellations(self) -> None:
        """Cancels calls whose answers are withheld; the client has not asked for that, and repeats them."""
        with contextlib.closing(CancellingProxy(self._service.target)) as proxy:
            self.open(proxy.address)
            for window in (0, WINDOW):
                self.take(2, window)
                proxy.answers.clear()
                with ThreadPoolExecutor(1) as pool:
                    taken = pool.submit(self.take, ROUND, window)
                    while not self._count_applied():
                        assert not taken.done()
                    proxy.cancel_calls()
                    proxy.answers.set()
                    assert taken.result()[0], "the step was not repeated under its sequence"
                self.faults["cancelled calls"] += 1
            assert not proxy.cuts
        self.open()

    def deadlines(self) -> None:
        """Withholds answers, or requests, until a deadline has passed."""
        proxy, settled = self._service.proxy, 0
        for number in range(2 * DEADLINES):
            gate = proxy.requests if number % 3 == 2 else proxy.answers
            self.take(2)
            gate.clear()
            self._check_expired(self._steps(ROUND, timeout_seconds=TIMEOUT))
            applied = self._count_applied()
            assert applied in (0, 1)
            gate.set()
            replayed = self.take(ROUND)  # the same steps again
            assert not any(replayed[1:])
            assert replayed[0] or not applied, "the repeat of an applied step was applied once more"
            settled += applied
        assert settled, "no step was applied whose answer was withheld"
        for _ in range(DEADLINES):
            self.open()
            self.take(2, WINDOW)
            proxy.answers.clear()
            self._check_expired(self._steps(ROUND, WINDOW, timeout_seconds=TIMEOUT))
            self.step += self._count_applied()
            proxy.answers.set()
        self.open()

    def fences(self) -> None:
        """Another process joins under the worker's name."""
        first = self._ask("join", pb.JoinCall(lease_seconds=120))
        self.take(ROUND)
        with self._service.client() as elsewhere:
            request = JoinSessionRequest(session=self._session, worker=WORKER)
            second = WorkerServiceStub(elsewhere.channel).JoinSession(request, timeout=20)
        self._check_refused_steps("FENCED", FAILED_PRECONDITION, 0)
        third = self._ask("join", pb.JoinCall())
        assert first.epoch < second.epoch < third.epoch
        assert first.rank == third.rank == 0
        self.take(ROUND)
        self._service.restart()
        self.take(ROUND)
        self._ask("leave", pb.LeaveCall())
        self.faults["fences"] += 1
        self.open()

    def restarts(self) -> None:
        """The client starts again: as an object, and as a process."""
        for number in range(4):
            self.take(ROUND, (0, WINDOW)[number % 2])
            if number // 2:
                self._running.close()
                self._driver, self._running = self._start()
            self.open()
            self.faults["restarts"] += 1

    def compare(self, expected: Tensors) -> None:
        """Compares the parameters with those of the run without faults, bit for bit."""
        for call in (pb.ReadCall(), pb.ReadCall(newer_than=self.step - 1)):
            found = self._ask("read", call)
            assert found.step == self.step == STEPS
            values = {named.name: array_of(named.tensor) for named in found.parameters.tensors}
            assert values.keys() == expected.keys()
            for name, value in expected.items():
                assert values[name].dtype == value.dtype
                assert values[name].tobytes() == value.tobytes(), f"{name} has other bits than without faults"

    def deletion(self) -> None:
        """The session is deleted elsewhere while its stream is open."""
        with self._service.client() as elsewhere:
            elsewhere.sessions.DeleteSession(DeleteSessionRequest(name=self._session), timeout=20)
        self._check_refused_steps("SESSION_NOT_FOUND", NOT_FOUND, 0, 2 * WINDOW)
        self._check_refused("read", pb.ReadCall(), "SESSION_NOT_FOUND", NOT_FOUND)

    def _start(self) -> tuple[Driver, contextlib.ExitStack]:
        running = contextlib.ExitStack()
        return running.enter_context(running_driver(self._command, self._service.proxy.address)), running

    def _connect(self, token: str = "", target: str = "") -> None:
        target = target or self._service.proxy.address
        self._ask("connect", pb.ConnectCall(target=target, token=token or self._service.token))

    def _exchange(self, name: str, call: Any) -> pb.DriverResponse:
        return self._driver.exchange(pb.DriverRequest(**{name: call}))

    def _ask(self, name: str, call: Any) -> Any:
        """Asks for something that succeeds."""
        response = self._exchange(name, call)
        assert response.WhichOneof("outcome") == name, f"at step {self.step}, {name}: {response}"
        return getattr(response, name)

    def _check_refused(self, name: str, call: Any, reason: str, code: int) -> None:
        """Asks for something that the server rejects."""
        response = self._exchange(name, call)
        assert response.WhichOneof("outcome") == "refusal", f"at step {self.step}, {name}: {response}"
        self._check(response.refusal, reason, code)

    def _check_refused_steps(
        self, reason: str, code: int, good: int, window: int = 0, bad: int | None = None, **options: Any
    ) -> None:
        """Takes steps of which the server rejects one: it applies those before it, and no other."""
        answer = self._steps(ROUND, window, bad=bad, **options)
        self._follow(answer, good)
        self._check(answer.refusal, reason, code)

    def _check(self, refusal: pb.Refusal, reason: str, code: int) -> None:
        found = ErrorReason.Name(refusal.reason).removeprefix("ERROR_REASON_")
        assert (found, refusal.code) == (reason, code), f"at step {self.step}: {refusal}"
        assert refusal.not_applied, (
            f"at step {self.step}: {reason}, but it is not known that nothing was applied"
        )
        self.faults["refusals"] += 1

    def _check_expired(self, answer: pb.StepsAnswer) -> None:
        """A deadline, after which it is not known whether the step was applied."""
        assert not answer.outcomes
        refusal = answer.refusal
        assert refusal.code == DEADLINE_EXCEEDED, f"at step {self.step}: {refusal}"
        assert refusal.reason == reasons.ERROR_REASON_UNSPECIFIED
        assert not refusal.not_applied
        self.faults["deadlines"] += 1

    def _steps(
        self, count: int, window: int = 0, *, bad: int | None = None, **options: Any
    ) -> pb.StepsAnswer:
        call = pb.StepsCall(window=window, **options)
        for number in range(count):
            found = gradients_at(self.step + number)
            if number == bad:
                found["b"][7] = np.nan
            call.gradients.append(tensors(found))
        answer: pb.StepsAnswer = self._ask("steps", call)
        return answer

    def _follow(self, answer: pb.StepsAnswer, count: int) -> None:
        """Checks that the steps that succeeded are the next ones."""
        found = [(outcome.step, outcome.sequence) for outcome in answer.outcomes]
        assert found == [(n, n) for n in range(self.step + 1, self.step + count + 1)], (
            f"at step {self.step}: {answer}"
        )
        self.step += count

    def _count_applied(self) -> int:
        """How many steps the server has applied that were not answered, when it has come to rest."""
        with self._service.client() as client:
            found = client.get(self._session).step
            while True:
                time.sleep(0.2)
                later = client.get(self._session).step
                if later == found:
                    return int(found - self.step)
                found = later
