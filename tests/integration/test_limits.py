"""Limits: what exceeds one is rejected with a reason, and the server continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import optserve
from optserve.optimizers import SGD
from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.worker_service_pb2 import JoinSessionRequest
from optserve.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.integration.client import Client, expect_refusal, name_arrays, plan_message, sgd, step_messages
from tests.integration.raw_stream import RawStream
from tests.integration.test_operations import samples
from tests.support.server import running_server
from tests.support.watching import resident, wait_until

VALUES = {"w": np.ones(4, np.float32)}
GRADIENT = np.ones(4, np.float32).tobytes()
MIB = 1 << 20


def of_size(byte_count: int) -> dict[str, np.ndarray]:
    return {"w": np.ones(byte_count // 4, np.float32)}


class Held:
    """A stream that has sent the beginning of a gradient and then waits."""

    def __init__(self, client: Client, name: str, gradient: bytes, sent: int) -> None:
        self._on = threading.Event()
        self.begun = threading.Event()
        self.stream = client.sessions.StepStream(self._messages(name, gradient, sent), timeout=30)

    def _messages(self, name: str, gradient: bytes, sent: int) -> Iterator[pb.StepStreamRequest]:
        messages = [plan_message(name), *step_messages(gradient, chunk=max(sent, 1))]
        first = 3 if sent else 2
        yield from messages[:first]
        self.begun.set()
        self._on.wait(30)
        yield from messages[first:]

    def finish(self) -> list[pb.StepStreamResponse]:
        self._on.set()
        return [answer for answer in self.stream if answer.HasField("result")]


def test_a_message_that_grpc_refuses_is_a_typed_error() -> None:
    with running_server(max_message_bytes="1MiB") as server, Client(server.address) as client:
        session = client.create(VALUES)
        request = pb.StepRequest(name=session.name, gradients=name_arrays(of_size(2 * MIB)))
        with expect_refusal() as told:
            client.sessions.Step(request, timeout=10)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
        with optserve.connect(server.address) as library:
            values = np.ones(MIB // 2, np.float32)
            with pytest.raises(optserve.errors.ResourceExhausted) as caught:
                library.activation(optserve.activations.ReLU(), values)
            assert caught.value.reason is None
            assert caught.value.retry_after is None
        assert client.step(session.name, VALUES).result.step == 1


def test_calls_beyond_the_limit_are_told_when_to_come_again() -> None:
    with running_server(max_concurrent_rpcs=2) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        held = [Held(client, name, GRADIENT, 0) for _ in range(2)]
        for one in held:
            one.stream.initial_metadata()
        with expect_refusal() as told:
            client.get(name)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert told.metadata == {"limit": "max_concurrent_rpcs", "value": "2"}
        assert told.retry_seconds == 0.5
        with optserve.connect(server.address) as library, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(library.session, name)
            assert [len(one.finish()) for one in held] == [1, 1]
            assert waiting.result(20).get().step == 2


def test_bytes_in_flight_are_counted_before_they_are_taken() -> None:
    """A second gradient waits for the first; one that is larger than the limit is rejected."""
    gradient = of_size(MIB)["w"].tobytes()
    with running_server(max_bytes_in_flight="4608KiB") as server, Client(server.address) as client:
        sessions = [client.create(of_size(MIB)).name for _ in range(4)]
        held = [Held(client, name, gradient, MIB // 2) for name in sessions]
        for one in held:
            assert one.begun.wait(10)
            client.get(sessions[0])
        with expect_refusal() as told:
            client.stream(sessions[0], step_messages(gradient))
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert told.metadata == {"limit": "max_bytes_in_flight", "value": str(4608 << 10)}
        assert told.retry_seconds == 0.5
        assert [one.finish()[0].result.step for one in held] == [1, 1, 1, 1]
        wait_until(lambda: goes(client, sessions[0], gradient))
        large = client.create({"w": np.zeros(1, np.float32)}).name
        request = pb.StepRequest(name=large, gradients=name_arrays(of_size(3 * MIB)))
        with expect_refusal() as told:
            client.sessions.Step(request, timeout=10)
        assert (told.reason, told.retry_seconds) == ("LIMIT_EXCEEDED", None)


def test_sessions_that_rest_take_no_bytes_in_flight() -> None:
    """Small sessions keep the buffers of their unary steps, however many sessions there are."""
    flags = {"max_bytes_in_flight": "4608KiB", "metrics_port": 0}
    with running_server(**flags) as server, Client(server.address) as client:
        gradient = of_size(MIB // 2)
        for _ in range(16):
            name = client.create(gradient).name
            answers = [client.step(name, gradient, pull=pb.PullOptions()) for _ in range(2)]
            assert [answer.result.step for answer in answers] == [1, 2]
        assert samples(server)["optserve_held_bytes_in_flight", ""] == 0


def creates(client: Client, size: int) -> bool:
    try:
        return client.create(of_size(size), session_id="after").step == 0
    except grpc.RpcError:
        return False


def goes(client: Client, name: str, gradient: bytes) -> bool:
    try:
        return client.stream(name, step_messages(gradient))[0].result.step > 0
    except grpc.RpcError:
        return False


def test_the_memory_budget_holds() -> None:
    """However many clients ask at once, the process stays within the budget and what it began with."""
    budget, size = 64 * MIB, 4 * MIB
    with running_server(max_memory_bytes=budget) as server, Client(server.address) as client:
        client.step(client.create(VALUES).name, VALUES)
        before = resident(server.process.pid)
        refusals = 0
        names = []
        for _ in range(40):
            try:
                request = pb.CreateSessionRequest(spec=sgd())
                parameter = request.parameters.add(name="w")
                parameter.initializer.shape.append(size // 4)
                parameter.initializer.dtype = tensor_pb2.DATA_TYPE_FLOAT32
                parameter.initializer.spec.zeros.SetInParent()
                names.append(client.sessions.CreateSession(request, timeout=20).session.name)
            except grpc.RpcError as error:
                refusals += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(names) >= 8
        assert refusals == 40 - len(names)
        gradient = of_size(size)["w"].tobytes()
        with ThreadPoolExecutor(16) as pool:
            taken = sum(pool.map(lambda name: goes(client, name, gradient), names * 4))
        assert taken > 0
        # Beside the budget: messages on their way, and the allocator's own.
        assert resident(server.process.pid) - before < 2 * budget
        for name in names:
            client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
        wait_until(lambda: creates(client, size))
        assert goes(client, "sessions/after", gradient)


@pytest.mark.parametrize("sent", [0, 8], ids=["begun", "half"])
def test_a_silent_stream_is_ended(sent: int) -> None:
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        held = Held(client, name, GRADIENT, sent)
        assert next(held.stream).HasField("planned")
        with expect_refusal() as told:
            next(held.stream)
        held._on.set()
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_IDLE")
        assert (told.metadata, told.applied) == ({"seconds": "1"}, "unknown")
        assert told.retry_seconds == 1
        assert client.get(name).step == 0


def test_a_caller_that_never_sends_its_request_is_sent_away() -> None:
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        on = threading.Event()

        def nothing() -> Iterator[bytes]:
            on.wait(20)
            yield from ()

        call = client.channel.stream_unary("/optserve.v1.SessionService/ListSessions")
        with expect_refusal() as told:
            call(nothing(), timeout=20)
        on.set()
        assert told.reason == "STREAM_IDLE"


def test_the_memory_of_an_answer_that_nobody_reads_comes_back() -> None:
    """The answer waits for a client that reads its first message and then no more."""
    size = 32 * MIB
    with running_server(stream_idle_seconds=1, metrics_port=0) as server, Client(server.address) as client:
        name = client.create(of_size(size)).name
        pull = client.sessions.PullParameters(pb.PullParametersRequest(name=name), timeout=30)
        next(pull)
        held = "optserve_held_bytes_in_flight", ""
        assert samples(server)[held] >= size
        wait_until(lambda: samples(server)[held] == 0)
        pull.cancel()


def test_an_idle_stream_holds_no_deleted_session() -> None:
    size = 48 * MIB
    with running_server() as server, Client(server.address) as client:
        client.step(client.create(VALUES).name, VALUES)
        name = client.create(of_size(size)).name
        before = resident(server.process.pid)
        on = threading.Event()

        def one_step() -> Iterator[pb.StepStreamRequest]:
            yield plan_message(name, pull=pb.PullOptions())
            yield from step_messages(of_size(size)["w"].tobytes())
            on.wait(20)

        stream = client.sessions.StepStream(one_step(), timeout=30)
        received = 0
        while received < size:
            received += len(next(stream).chunk.data)
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name=name), timeout=10)
        wait_until(lambda: before - resident(server.process.pid) > size * 3 // 4)
        on.set()
        assert list(stream) == []


def test_a_stream_of_the_library_goes_on_after_it_was_ended() -> None:
    """A silent stream is opened again with its next step, and no step is lost or taken twice."""
    with (
        running_server(stream_idle_seconds=1, metrics_port=0) as server,
        optserve.connect(server.address) as client,
    ):
        session = client.create_session(VALUES, SGD(learning_rate=0.5))
        with session.stream() as stream:
            assert stream.step(VALUES).step == 1
            wait_until(lambda: samples(server)["optserve_calls_in_flight", ""] == 0)
            assert stream.step(VALUES).step == 2
        assert session.get().step == 2


def test_a_watch_may_be_silent() -> None:
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        events = client.sessions.WatchSession(pb.WatchSessionRequest(name=name), timeout=20)
        assert next(events).began.name == name
        with RawStream(client) as silent, expect_refusal() as told:
            next(silent.call)
        assert told.reason == "STREAM_IDLE"
        client.step(name, VALUES)
        assert next(events).step.step == 1


def test_a_step_and_a_pull_that_wait_for_others_may_be_silent() -> None:
    """They are not idle: what they wait for may take longer than a stream may be silent."""
    with running_server(stream_idle_seconds=1) as server, Client(server.address) as client:
        spec = sgd()
        spec.coordination.sync.min_replicas = 2
        name = client.create(VALUES, spec).name
        join = WorkerServiceStub(client.channel).JoinSession
        epochs = [join(JoinSessionRequest(session=name, worker=worker), timeout=10).epoch for worker in "ab"]

        def step(worker: str, epoch: int) -> list[pb.StepStreamResponse]:
            plan = plan_message(name, worker=worker, worker_epoch=epoch)
            return client.exchange([plan, *step_messages(GRADIENT, sequence=1, parameters_step=0)])

        request = pb.PullParametersRequest(name=name, newer_than_step=0)
        with ThreadPoolExecutor(2) as pool:
            pulled = pool.submit(lambda: list(client.sessions.PullParameters(request, timeout=30)))
            first = pool.submit(step, "a", epochs[0])
            with RawStream(client) as silent, expect_refusal() as told:
                next(silent.call)
            assert told.reason == "STREAM_IDLE"
            time.sleep(2)  # twice as long as a silent stream lives
            assert not first.done()
            assert step("b", epochs[1])[-1].result.contributions == 2
            assert first.result(10)[-1].result.step == 1
            assert pulled.result(10)[0].header.step == 1


def test_rank_and_shape_of_a_tensor() -> None:
    with running_server(max_tensor_rank=3) as server, Client(server.address) as client:
        with expect_refusal() as told:
            client.create({"w": np.ones((1, 1, 1, 1), np.float32)})
        assert (told.reason, told.metadata) == ("LIMIT_EXCEEDED", {"limit": "max_tensor_rank", "value": "3"})
        request = pb.CreateSessionRequest(spec=sgd())
        parameter = request.parameters.add(name="w")
        parameter.upload.dtype = tensor_pb2.DATA_TYPE_FLOAT32
        parameter.upload.shape.extend([2**62, 2**62, 2**62])
        with expect_refusal() as told:
            client.sessions.CreateSession(request, timeout=10)
        assert told.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
        assert client.create(VALUES).step == 0
