"""Tokens and namespaces: who may call, what he finds, and what he may hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.capabilities_service_pb2 import GetCapabilitiesRequest
from optserve.v1.function_service_pb2 import EvaluateScheduleRequest
from optserve_server.rpc.services.session_service import SessionService
from tests.integration.client import Client, expect_refusal, plan_message, sgd, step_messages
from tests.support.server import RunningServer, run_to_end, running_server
from tests.support.watching import wait_until

VALUES = {"w": np.ones(4, np.float32)}
GRADIENT = np.ones(4, np.float32).tobytes()


def token_for(path: Path, namespace: str, *arguments: str) -> str:
    """Makes a token with the command that people use."""
    flags = ["token", "--tokens-file", str(path), "--namespace", namespace, *arguments]
    made = run_to_end(*flags)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def accepts(client: Client) -> bool:
    try:
        client.capabilities.GetCapabilities(GetCapabilitiesRequest(), timeout=5)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("access") / "tokens.toml"
    made = {name: token_for(path, name, "--name", f"{name}-laptop") for name in ("alice", "bob")}
    return made | {"path": str(path)}


@pytest.fixture(scope="module")
def guarded(tokens: dict[str, str]) -> Iterator[RunningServer]:
    with running_server(tokens_file=tokens["path"]) as server:
        yield server


@pytest.fixture
def alice(guarded: RunningServer, tokens: dict[str, str]) -> Iterator[Client]:
    with Client(guarded.address, token=tokens["alice"]) as client:
        yield client


@pytest.fixture
def bob(guarded: RunningServer, tokens: dict[str, str]) -> Iterator[Client]:
    with Client(guarded.address, token=tokens["bob"]) as client:
        yield client


CALLS: dict[str, Callable[[Client], object]] = {
    "CreateSession": lambda client: client.create(VALUES),
    "ListSessions": lambda client: client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=5),
    "StepStream": lambda client: client.stream("sessions/x", step_messages(GRADIENT)),
    "PullParameters": lambda client: client.pull("sessions/x"),
    "PushParameters": lambda client: client.push(pb.PushHeader(name="sessions/x"), GRADIENT),
    "EvaluateSchedule": lambda client: client.functions.EvaluateSchedule(EvaluateScheduleRequest()),
    "GetCapabilities": lambda client: client.capabilities.GetCapabilities(GetCapabilitiesRequest()),
    "reflection": lambda client: list(
        reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("token", [None, "wrong", ""], ids=["none", "wrong", "empty"])
@pytest.mark.parametrize("call", CALLS)
def test_without_a_token_nothing_is_answered(guarded: RunningServer, call: str, token: str | None) -> None:
    with Client(guarded.address, token=token) as client:
        with expect_refusal() as told:
            CALLS[call](client)
        assert (told.code, told.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        health = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_tokens_are_hashed_at_rest(tokens: dict[str, str]) -> None:
    path = Path(tokens["path"])
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_text()
    for name in ("alice", "bob"):
        assert tokens[name].startswith("optserve_")
        assert tokens[name].removeprefix("optserve_") not in content


def list_named_requests(name: str) -> dict[str, Callable[[Client], object]]:
    """A call of every method that names a session."""
    calls: dict[str, Callable[[Client], object]] = {
        "StepStream": lambda client: client.stream(name, step_messages(GRADIENT)),
        "PullParameters": lambda client: client.pull(name),
        "PushParameters": lambda client: client.push(pb.PushHeader(name=name), GRADIENT),
    }
    service = pb.DESCRIPTOR.services_by_name["SessionService"]
    for method in service.methods:
        kind = method.input_type
        if method.name in calls or "name" not in kind.fields_by_name:
            continue
        request = fill(kind, name)
        calls[method.name] = partial(answer_of, method.name, request, method.server_streaming)
    return calls


def answer_of(method: str, request: Message, streaming: bool, client: Client) -> object:
    answer = getattr(client.sessions, method)(request, timeout=5)
    return list(answer) if streaming else answer


def fill(kind: object, name: str) -> Message:
    """A request that is right as far as its form goes."""
    of_snapshot = kind.name in ("DeleteSnapshotRequest", "RestoreSnapshotRequest")  # type: ignore[attr-defined]
    name = f"{name}/snapshots/0" if of_snapshot else name
    request: Message = getattr(pb, kind.name)(name=name)  # type: ignore[attr-defined]
    if "spec" in request.DESCRIPTOR.fields_by_name:
        request.spec.CopyFrom(sgd())  # type: ignore[attr-defined]
    if "metrics" in request.DESCRIPTOR.fields_by_name:
        request.metrics.add(name="loss", value=1.0)  # type: ignore[attr-defined]
    return request


METHODS = sorted(list_named_requests("sessions/x").keys() & vars(SessionService).keys())


def test_every_method_that_names_a_session_is_tried() -> None:
    service = pb.DESCRIPTOR.services_by_name["SessionService"]
    served = {method.name for method in service.methods} & vars(SessionService).keys()
    assert served - set(METHODS) == {"CreateSession", "ListSessions", "ImportSnapshot"}


@pytest.mark.parametrize("method", METHODS)
def test_a_session_of_another_namespace_is_not_found(alice: Client, bob: Client, method: str) -> None:
    """The same answer as for a session that is nowhere, word by word."""
    session = alice.create(VALUES)
    nowhere = "sessions/" + "0" * 16
    with expect_refusal() as told:
        list_named_requests(session.name)[method](bob)
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    with expect_refusal() as unknown:
        list_named_requests(nowhere)[method](bob)
    assert told.message.replace(session.name, nowhere) == unknown.message
    assert alice.get(session.name).step == 0


def test_a_listing_holds_the_namespaces_own(alice: Client, bob: Client) -> None:
    mine, theirs = alice.create(VALUES).name, bob.create(VALUES).name
    for client, name, other in ((alice, mine, theirs), (bob, theirs, mine)):
        request = pb.ListSessionsRequest(page_size=1000)
        names = [s.name for s in client.sessions.ListSessions(request, timeout=5).sessions]
        assert name in names
        assert other not in names


def test_ids_request_ids_and_workers_of_two_namespaces_never_meet(alice: Client, bob: Client) -> None:
    request = {"session_id": "same", "request_id": "one"}
    mine = alice.create(VALUES, **request)
    theirs = bob.create({"w": np.full(4, 7, np.float32)}, **request)
    assert mine.name == theirs.name == "sessions/same"
    for client in (alice, bob):
        answer = client.step("sessions/same", VALUES, worker="w", sequence=1)
        assert (answer.result.step, answer.result.replayed) == (1, False)
    assert alice.pull("sessions/same")["w"].tolist() == [0.5] * 4
    assert bob.pull("sessions/same")["w"].tolist() == [6.5] * 4
    bob.sessions.DeleteSession(pb.DeleteSessionRequest(name="sessions/same", request_id="two"), timeout=5)
    assert alice.get("sessions/same").step == 1


def test_logs_say_who_called(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = token_for(path, "alice", "--name", "laptop")
    server_of = running_server(tokens_file=path, log_level="debug")
    with server_of as server, Client(server.address, token=token) as client:
        client.create(VALUES)
        server.stop()
        (made,) = [line for line in server.log() if line["message"].endswith("CreateSession")]
        assert (made["caller"], made["namespace"]) == ("laptop", "alice")
        assert token not in server.log_path.read_text()


def test_tokens_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A new token is taken, a wrong file is not, and a revoked token's open stream ends."""
    path = tmp_path / "tokens.toml"
    first = token_for(path, "alice")
    over = threading.Event()
    with running_server(tokens_file=path) as server:
        second = token_for(path, "alice")
        with Client(server.address, token=first) as old, Client(server.address, token=second) as new:
            wait_until(lambda: accepts(new))
            session = old.create(VALUES)

            def messages() -> Iterator[pb.StepStreamRequest]:
                yield plan_message(session.name)
                yield from step_messages(GRADIENT)
                over.wait(60)

            stream = old.sessions.StepStream(messages(), timeout=60)
            assert next(stream).HasField("planned")
            assert next(stream).result.step == 1
            good = path.read_text()
            path.write_text("tokens = 3")
            wait_until(lambda: any("stay as they were" in line["message"] for line in server.log()))
            assert accepts(old)
            path.write_text(good[good.rindex("[[tokens]]") :])
            with expect_refusal() as told:
                next(stream)
            over.set()
            assert (told.reason, told.applied) == ("UNAUTHENTICATED", "unknown")
            assert not accepts(old)
            assert accepts(new)
            assert new.get(session.name).step == 1


@pytest.mark.slow
@pytest.mark.slow
def test_a_token_expires(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = token_for(path, "alice", "--expires-in-days", str(20 / 86400))
    with running_server(tokens_file=path) as server, Client(server.address, token=token) as client:
        assert accepts(client)
        wait_until(lambda: not accepts(client), 40)


def test_unauthenticated_calls_beside_tokens_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = token_for(path, "alice")
    with running_server(tokens_file=path, allow_unauthenticated="yes") as server:
        with Client(server.address) as anybody, Client(server.address, token=token) as alice:
            session = anybody.create(VALUES)
            with expect_refusal() as told:
                alice.get(session.name)
            assert told.reason == "SESSION_NOT_FOUND"
        with Client(server.address, token="wrong") as stranger:
            assert not accepts(stranger)


def test_reflection_can_be_turned_off() -> None:
    with running_server(reflection="no") as server, Client(server.address) as client:
        with expect_refusal() as told:
            CALLS["reflection"](client)
        assert told.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[[str], Client]]:
    """Clients of namespaces; that of bob has quotas."""
    path = tmp_path / "tokens.toml"
    made = {name: token_for(path, name) for name in ("alice", "bob")}
    quota = "\n[namespaces.bob]\nmax_sessions = 2\nmax_bytes = 100000\nmax_requests_in_flight = 2\n"
    path.write_text(path.read_text() + quota)
    with running_server(tokens_file=path) as server:
        yield lambda name: Client(server.address, token=made[name])


def test_a_quota_of_sessions(limited: Callable[[str], Client]) -> None:
    with limited("bob") as bob, limited("alice") as alice:
        first = bob.create(VALUES)
        bob.create(VALUES)
        with expect_refusal() as told:
            bob.create(VALUES)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert told.metadata == {"quota": "max_sessions", "namespace": "bob", "value": "2"}
        assert told.retry_seconds is None
        alice.create(VALUES)
        bob.sessions.DeleteSession(pb.DeleteSessionRequest(name=first.name), timeout=5)
        bob.create(VALUES)


def test_a_quota_of_bytes(limited: Callable[[str], Client]) -> None:
    """Of sessions, and of what is under way to them."""
    big = {"w": np.zeros(10_000, np.float32)}
    with limited("bob") as bob, limited("alice") as alice:
        with expect_refusal() as told:
            bob.create({"w": np.zeros(30_000, np.float32)})
        assert (told.reason, told.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_bytes")
        session = bob.create({"w": np.zeros(5_000, np.float32)})
        with expect_refusal() as told:
            bob.create(big)
        assert (told.reason, told.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_bytes")
        assert bob.step(session.name, {"w": np.ones(5_000, np.float32)}).result.step == 1
        assert alice.create(big).step == 0


def test_a_quota_of_requests_in_flight(limited: Callable[[str], Client]) -> None:
    over = threading.Event()

    def messages(name: str) -> Iterator[pb.StepStreamRequest]:
        yield plan_message(name)
        yield from step_messages(GRADIENT)
        over.wait(20)

    with limited("bob") as bob, limited("alice") as alice:
        name = bob.create(VALUES).name
        streams = [bob.sessions.StepStream(messages(name), timeout=20) for _ in range(2)]
        for stream in streams:
            assert next(stream).HasField("planned")
            assert next(stream).HasField("result")
        with expect_refusal() as told:
            bob.get(name)
        assert (told.reason, told.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_requests_in_flight")
        assert told.retry_seconds == 0.5
        alice.create(VALUES)
        over.set()
        for stream in streams:
            assert list(stream) == []
        wait_until(lambda: bob.get(name).step == 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("tokens = [", "cannot read the tokens in "),
        ('[[tokens]]\nnamespace = "a"\n', "a token's sha256 is None, which is none"),
        ('[[tokens]]\nnamespace = "A!"\nsha256 = "00"\n', "a token's namespace is 'A!', which is none"),
        ("[namespaces.a]\nmax_session = 1\n", "namespace a has an unknown key 'max_session'"),
        ("[namespaces.a]\nmax_sessions = -1\n", "max_sessions of namespace a is -1"),
    ],
)
def test_a_wrong_file_of_tokens_is_told(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    path.write_text(content)
    ended = run_to_end("--tokens-file", str(path), "--port=0")
    assert ended.returncode == 2
    assert told in ended.stderr
    assert str(path) in ended.stderr


def test_nobody_could_call() -> None:
    ended = run_to_end("--allow-unauthenticated=no")
    assert (ended.returncode, "nobody could call" in ended.stderr) == (2, True)
