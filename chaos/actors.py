"""Clients that remember which changes were acknowledged, and which are still unanswered."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np

from chaos.beside import Beside
from chaos.model import Arrays, Model, draw
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from tests.integration.client import Client, step_messages

VALUES: dict[str, np.ndarray] = {
    "w": np.linspace(-1, 1, 3000, dtype=np.float32),
    "b": np.linspace(0, 1, 7),
}
TIMEOUT = 30.0
LEFT_OPEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Errors after which a call is repeated: the server is gone or shuts down, or its disk is full."""


@dataclass
class Call:
    """Something that was asked of a server and may not have been answered.

    Attributes:
        kind: what, for people.
        ask: asks, always with the same identity.
        follow: makes the same change to the model, and compares the answer with it.
    """

    kind: str
    ask: Callable[[Client], object]
    follow: Callable[[object], None]


class Actor(ABC):
    """Changes a session until the server dies; afterwards, finds out whether all of it is there.

    Attributes:
        answered: changes that a server acknowledged.
        unknown: changes whose answer never came, and which were repeated.
        over_grpc: steps of those that were acknowledged over gRPC.
        over_data: those over data connections.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self.answered = 0
        self.unknown = 0
        self.over_grpc = 0
        self.over_data = 0
        self._beside: Beside | None = None
        self.failure: BaseException | None = None

    def run(self, address: str, over: threading.Event) -> None:
        """Repeats unanswered calls, compares, and continues until the connection breaks."""
        try:
            with Client(address) as client:
                self.settle(client)
                while not over.is_set():
                    self.go_on(client)
        except grpc.RpcError as error:
            if error.code() not in LEFT_OPEN:
                self.failure = error
        except BaseException as error:
            self.failure = error
        finally:
            self._leave()

    def step_beside(
        self, client: Client, plan: pb.StepPlan, messages: list[pb.StepStreamRequest]
    ) -> pb.StepResult:
        """Takes a step over a data connection, which the actor keeps as long as its client and plan."""
        beside = self._beside
        if beside is None or beside.client is not client or beside.plan != plan:
            self._leave()
            beside = self._beside = Beside(client, plan)
        return beside.step(messages)

    def _leave(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()

    @abstractmethod
    def settle(self, client: Client) -> None:
        """Repeats what was not answered, and compares the session with the model."""

    @abstractmethod
    def go_on(self, client: Client) -> None:
        """Makes one more change."""


def export(client: Client, name: str) -> bytes:
    """A session's whole state."""
    messages = client.sessions.ExportSnapshot(pb.ExportSnapshotRequest(name=name), timeout=TIMEOUT)
    return b"".join(message.chunk.data for message in messages)


def list_kept_steps(client: Client, name: str) -> list[int]:
    """Returns the steps of the snapshots that a client asked for."""
    answer = client.sessions.ListSnapshots(pb.ListSnapshotsRequest(name=name), timeout=TIMEOUT)
    return sorted(snapshot.step for snapshot in answer.snapshots if snapshot.kept)


def flat(gradient: Arrays) -> bytes:
    """A gradient's bytes as they are streamed."""
    return b"".join(gradient[name].tobytes() for name in ("b", "w"))


class Soloist(Actor):
    """One client of one session, which does everything that changes it."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self._model: Model | None = None
        self._open: Call | None = None
        self._lives = itertools.count(1)
        self._keys = itertools.count(1)
        self._begin()

    def _begin(self) -> None:
        self._sequence = 0
        self._session = f"{self.name}-{next(self._lives)}"
        self._saved: dict[int, bytes] = {}

    @property
    def _full_name(self) -> str:
        return f"sessions/{self._session}"

    def settle(self, client: Client) -> None:
        if self._open is not None:
            self.unknown += 1
            if self._model is not None and self._open.kind != "delete":
                # What was answered is there; of what was not, one change at most.
                at = client.get(self._full_name).step
                assert self._open.kind == "restore" or at - self._model.step_number in (0, 1), at
            self._make(client, self._open)
        if self._model is not None:
            self._model.check(export(client, self._full_name))
            found = list_kept_steps(client, self._full_name)
            assert found == sorted(self._saved), f"{found} instead of {sorted(self._saved)}"

    def go_on(self, client: Client) -> None:
        self._make(client, self._next())

    def _make(self, client: Client, call: Call) -> None:
        self._open = call
        answer = call.ask(client)
        call.follow(answer)
        self._open = None
        self.answered += 1
        self.over_grpc += call.kind in ("step", "stream")
        self.over_data += call.kind == "beside"

    def _next(self) -> Call:
        if self._model is None:
            return self._create()
        kinds = [self._step, self._stream_step, self._step_over_data_connection]
        kinds += [self._push, self._update, self._report, self._save, self._delete]
        weights = [0.24, 0.24, 0.24, 0.06, 0.06, 0.06, 0.05, 0.01]
        if self._saved:
            kinds, weights = [*kinds, self._restore, self._drop], [*weights, 0.04, 0.03]
        chosen = self.rng.choice(len(kinds), p=np.array(weights) / sum(weights))
        return kinds[int(chosen)]()

    def _key(self) -> str:
        return f"{self.name} {next(self._keys)}"

    def _create(self) -> Call:
        spec, key = self._spec(), self._key()
        values = draw(self.rng, VALUES)

        def ask(client: Client) -> object:
            return client.create(values, spec, session_id=self._session, request_id=key)

        def follow(_: object) -> None:
            self._model = Model(values, spec)

        return Call("create", ask, follow)

    def _spec(self) -> SessionSpec:
        spec = SessionSpec()
        getattr(spec.optimizer, str(self.rng.choice(["adam", "momentum", "adagrad"]))).SetInParent()
        spec.reduce_on_plateau.monitor = "loss"
        spec.reduce_on_plateau.patience = 1
        return spec

    def _step(self) -> Call:
        gradient = draw(self.rng, VALUES)
        sequence = self._sequence = self._sequence + 1

        def ask(client: Client) -> pb.StepResult:
            return client.step(self._full_name, gradient, worker="solo", sequence=sequence).result

        return Call("step", ask, lambda answer: self._check_step(gradient, sequence, answer))

    def _stream_step(self) -> Call:
        def send(client: Client, plan: pb.StepPlan, messages: list[pb.StepStreamRequest]) -> pb.StepResult:
            (answer,) = client.stream(plan, messages)
            return answer.result

        return self._send_in_chunks("stream", send)

    def _step_over_data_connection(self) -> Call:
        return self._send_in_chunks("beside", self.step_beside)

    def _send_in_chunks(
        self,
        kind: str,
        send: Callable[[Client, pb.StepPlan, list[pb.StepStreamRequest]], pb.StepResult],
    ) -> Call:
        gradient = draw(self.rng, VALUES)
        sequence = self._sequence = self._sequence + 1
        plan = pb.StepPlan(session=self._full_name, worker="solo")
        messages = list(step_messages(flat(gradient), sequence=sequence))

        def ask(client: Client) -> pb.StepResult:
            result = send(client, plan, messages)
            assert not result.worker  # the plan names it
            result.worker = plan.worker
            return result

        return Call(kind, ask, lambda answer: self._check_step(gradient, sequence, answer))

    def _check_step(self, gradient: Arrays, sequence: int, answer: object) -> None:
        assert self._model is not None
        assert isinstance(answer, pb.StepResult)
        expected = self._model.step(gradient, worker="solo", sequence=sequence)
        expected.replayed = answer.replayed
        assert answer == expected

    def _push(self) -> Call:
        values, key, reset = draw(self.rng, {"b": VALUES["b"]}), self._key(), bool(self.rng.integers(2))
        header = pb.PushHeader(name=self._full_name, request_id=key, tensors=["b"], reset_state=reset)

        def follow(_: object) -> None:
            assert self._model is not None
            self._model.push(values, reset)

        return Call("push", lambda client: client.push(header, values["b"].tobytes()), follow)

    def _update(self) -> Call:
        spec = self._spec()
        request = pb.UpdateSessionRequest(name=self._full_name, request_id=self._key(), spec=spec)

        def follow(_: object) -> None:
            assert self._model is not None
            self._model.update(spec)

        return Call("update", lambda c: c.sessions.UpdateSession(request, timeout=TIMEOUT), follow)

    def _report(self) -> Call:
        loss = float(self.rng.random())
        request = pb.ReportMetricsRequest(name=self._full_name, request_id=self._key())
        request.metrics.add(name="loss", value=loss)

        def follow(_: object) -> None:
            assert self._model is not None
            self._model.report({"loss": loss})

        return Call("report", lambda c: c.sessions.ReportMetrics(request, timeout=TIMEOUT), follow)

    def _save(self) -> Call:
        request = pb.CreateSnapshotRequest(name=self._full_name, request_id=self._key())

        def follow(answer: object) -> None:
            assert self._model is not None
            assert isinstance(answer, pb.CreateSnapshotResponse)
            assert answer.snapshot.step == self._model.step_number
            self._saved[answer.snapshot.step] = self._model.snapshot()

        return Call("save", lambda c: c.sessions.CreateSnapshot(request, timeout=TIMEOUT), follow)

    def _restore(self) -> Call:
        step = int(self.rng.choice(sorted(self._saved)))
        weights = bool(self.rng.integers(2))
        request = pb.RestoreSnapshotRequest(
            name=f"{self._full_name}/snapshots/{step}", request_id=self._key(), weights_only=weights
        )

        def follow(_: object) -> None:
            assert self._model is not None
            self._model.restore(self._saved[step], weights)

        return Call("restore", lambda c: c.sessions.RestoreSnapshot(request, timeout=TIMEOUT), follow)

    def _drop(self) -> Call:
        step = int(self.rng.choice(sorted(self._saved)))
        request = pb.DeleteSnapshotRequest(name=f"{self._full_name}/snapshots/{step}", request_id=self._key())

        def follow(_: object) -> None:
            del self._saved[step]

        return Call("drop", lambda c: c.sessions.DeleteSnapshot(request, timeout=TIMEOUT), follow)

    def _delete(self) -> Call:
        request = pb.DeleteSessionRequest(name=self._full_name, request_id=self._key())

        def follow(_: object) -> None:
            self._model = None
            self._begin()

        return Call("delete", lambda c: c.sessions.DeleteSession(request, timeout=TIMEOUT), follow)


class Pair(Actor):
    """Two workers of one session, one of them over a data connection.

    Each step is there once, in the order that the answers tell.
    """

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self._name = f"sessions/{name}"
        spec = SessionSpec()
        spec.optimizer.adam.learning_rate = 0.01
        self._model = Model(VALUES, spec)
        self._spec = spec
        self._taken: dict[int, tuple[str, int, Arrays, pb.StepResult]] = {}
        self._sequences = {"left": 0, "right": 0}
        self._open: dict[str, Arrays] = {}
        self._lock = threading.Lock()

    def settle(self, client: Client) -> None:
        client.create(VALUES, self._spec, session_id=self.name, request_id=f"make {self.name}")
        self.unknown += len(self._open)
        for worker in tuple(self._open):
            self._send(client, worker)
        first = self._model.step_number + 1
        assert sorted(self._taken) == list(range(first, first + len(self._taken)))
        for step in sorted(self._taken):
            worker, sequence, gradient, answer = self._taken.pop(step)
            expected = self._model.step(gradient, worker=worker, sequence=sequence)
            expected.replayed = answer.replayed
            assert answer == expected
        self._model.check(export(client, self._name))

    def go_on(self, client: Client) -> None:
        errors: list[Exception] = []

        def work(worker: str) -> None:
            try:
                for _ in range(5):
                    with self._lock:
                        self._open[worker] = draw(self.rng, VALUES)
                        self._sequences[worker] += 1
                    self._send(client, worker)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self._sequences]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _send(self, client: Client, worker: str) -> None:
        gradient, sequence = self._open[worker], self._sequences[worker]
        if worker == "left":
            result = client.step(self._name, gradient, worker=worker, sequence=sequence).result
        else:
            plan = pb.StepPlan(session=self._name, worker=worker)
            messages = list(step_messages(flat(gradient), sequence=sequence))
            result = self.step_beside(client, plan, messages)
            result.worker = worker  # the plan names it
        with self._lock:
            assert result.step not in self._taken
            self._taken[result.step] = (worker, sequence, gradient, result)
            del self._open[worker]
            self.answered += 1
            self.over_grpc += worker == "left"
            self.over_data += worker == "right"
