"""Snapshots over the wire: made, listed, deleted, gone back to, forked from, sent and received."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.session_pb2 import DurabilityMode, SessionSpec
from tests.integration.client import Client, expect_refusal
from tests.recovery.test_durability import VALUES, adam, gradient, kill, running, state

NAME = "sessions/a"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Client]:
    """A client of a server with a data directory, and a session of a few steps."""
    with running(tmp_path) as (_, client):
        client.create(VALUES, adam(), session_id="a")
        for number in range(1, 4):
            client.step(NAME, gradient(number), worker="w", sequence=number)
        yield client


def save(client: Client, name: str = NAME) -> pb.Snapshot:
    return client.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=name), timeout=20).snapshot


def list_snapshots(client: Client, name: str = NAME) -> list[pb.Snapshot]:
    return list(client.sessions.ListSnapshots(pb.ListSnapshotsRequest(name=name), timeout=20).snapshots)


def export(client: Client, name: str = NAME) -> bytes:
    messages = list(client.sessions.ExportSnapshot(pb.ExportSnapshotRequest(name=name), timeout=20))
    data = b"".join(message.chunk.data for message in messages)
    assert messages[0].header.byte_count == len(data)
    return data


def receive(client: Client, data: bytes, chunk: int = 1000, **fields: object) -> pb.ImportSnapshotResponse:
    def messages() -> Iterator[pb.ImportSnapshotRequest]:
        header = pb.ImportHeader(**{"byte_count": len(data), **fields})
        yield pb.ImportSnapshotRequest(header=header)
        for start in range(0, len(data), chunk):
            piece = tensor_pb2.Chunk(byte_offset=start, data=data[start : start + chunk])
            yield pb.ImportSnapshotRequest(chunk=piece)

    return client.sessions.ImportSnapshot(messages(), timeout=20)


def test_snapshots_are_listed_latest_first(kept: Client) -> None:
    made = save(kept)
    assert (made.name, made.step, made.kept) == (f"{NAME}/snapshots/3", 3, True)
    assert made.byte_count > 3 * 4000
    kept.step(NAME, gradient(4))
    save(kept)
    kept.step(NAME, gradient(5))
    found = list_snapshots(kept)
    assert [(s.step, s.kept) for s in found] == [(4, True), (3, True), (0, False)]
    assert found[1] == made
    assert found[0].create_time.ToNanoseconds() >= found[1].create_time.ToNanoseconds() > 0


def test_deleted_snapshots_are_gone(kept: Client) -> None:
    save(kept)
    kept.step(NAME, gradient(4))
    save(kept)
    request = pb.DeleteSnapshotRequest(name=f"{NAME}/snapshots/3", request_id="delete")
    for _ in range(2):
        kept.sessions.DeleteSnapshot(request, timeout=20)
    assert [s.step for s in list_snapshots(kept) if s.kept] == [4]
    with expect_refusal() as told:
        kept.sessions.DeleteSnapshot(pb.DeleteSnapshotRequest(name=request.name), timeout=20)
    assert (told.reason, told.metadata) == ("SNAPSHOT_NOT_FOUND", {"name": request.name})
    # The server itself needs the latest: it keeps that until it has another.
    kept.sessions.DeleteSnapshot(pb.DeleteSnapshotRequest(name=f"{NAME}/snapshots/4"), timeout=20)
    assert [s.step for s in list_snapshots(kept) if s.kept] == []
    assert 4 in [s.step for s in list_snapshots(kept)]


def test_a_session_goes_back_to_all_that_it_was(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        spec = adam()
        spec.reduce_on_plateau.monitor = "loss"
        client.create(VALUES, spec, session_id="a")
        client.step(NAME, gradient(1))
        report = pb.ReportMetricsRequest(name=NAME)
        report.metrics.add(name="loss", value=1.0)
        client.sessions.ReportMetrics(report, timeout=20)
        save(client)
        before, exported = state(client, NAME), export(client)
        client.step(NAME, gradient(2), worker="w", sequence=1)
        other = SessionSpec()
        other.optimizer.momentum.SetInParent()
        client.sessions.UpdateSession(pb.UpdateSessionRequest(name=NAME, spec=other), timeout=20)
        client.step(NAME, gradient(3))
        request = pb.RestoreSnapshotRequest(name=f"{NAME}/snapshots/1", expected_step=3, request_id="back")
        answer = client.sessions.RestoreSnapshot(request, timeout=20)
        assert client.sessions.RestoreSnapshot(request, timeout=20) == answer
        assert answer.session == before[0]
        assert state(client, NAME) == before
        assert export(client) == exported
        # Answered is answered, wherever the session went since.
        assert client.step(NAME, gradient(2), worker="w", sequence=1).result.replayed
        result = client.step(NAME, gradient(4)).result
        assert (result.step, result.durable_step) == (2, 2)
        after = state(client, NAME)
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, NAME) == after
        assert client.sessions.RestoreSnapshot(request, timeout=20) == answer
        assert state(client, NAME) == after
        with expect_refusal() as told:
            client.sessions.RestoreSnapshot(
                pb.RestoreSnapshotRequest(name=f"{NAME}/snapshots/1", expected_step=9), timeout=20
            )
        assert told.reason == "STEP_MISMATCH"


def test_what_was_asked_for_precedes_the_servers_own(tmp_path: Path) -> None:
    """Parameters that are pushed leave the step as it is, and are saved soon."""
    with running(tmp_path) as (_, client):
        mode = DurabilityMode.DURABILITY_MODE_SNAPSHOT
        client.create(VALUES, adam(mode=mode, snapshot_seconds=1e6), session_id="a")
        client.step(NAME, gradient(1))
        made, before = save(client), client.pull(NAME)["b"].tobytes()
        client.push(pb.PushHeader(name=NAME, tensors=["b"]), np.arange(3.0).tobytes())
        deadline = time.monotonic() + 10
        while not list((tmp_path / "sessions" / "a").glob("auto-*-1.safetensors")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert made in list_snapshots(client)
        client.sessions.RestoreSnapshot(pb.RestoreSnapshotRequest(name=made.name), timeout=20)
        assert client.pull(NAME)["b"].tobytes() == before


def test_a_session_takes_weights_alone(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        client.create(VALUES, adam(), session_id="a")
        save(client)
        for number in range(3):
            client.step(NAME, gradient(number))
        slots = safetensors.numpy.load(export(client))
        request = pb.RestoreSnapshotRequest(name=f"{NAME}/snapshots/0", weights_only=True)
        assert client.sessions.RestoreSnapshot(request, timeout=20).session.step == 3
        after = safetensors.numpy.load(export(client))
        for name, value in VALUES.items():
            assert after[f"parameter/{name}"].tobytes() == value.tobytes()
            assert after[f"slot/m/{name}"].tobytes() == slots[f"slot/m/{name}"].tobytes()
        before = state(client, NAME)
        kill(server)
    with running(tmp_path) as (_, client):
        assert state(client, NAME) == before


def test_forks_go_their_own_way(kept: Client) -> None:
    save(kept)
    at_three = export(kept)
    kept.step(NAME, gradient(4))
    fork = pb.ForkSessionRequest(name=f"{NAME}/snapshots/3", session_id="b", request_id="fork")
    made = kept.sessions.ForkSession(fork, timeout=20)
    assert kept.sessions.ForkSession(fork, timeout=20) == made
    assert (made.session.name, made.session.step, made.session.durable_step) == ("sessions/b", 3, 3)
    live = kept.sessions.ForkSession(pb.ForkSessionRequest(name=NAME), timeout=20).session
    assert live.step == 4
    for name, like in (("sessions/b", f"{NAME}/snapshots/3"), (live.name, NAME)):
        found, expected = (safetensors.numpy.load(export(kept, n)) for n in (name, like))
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"checksums"}:
            assert found[key].tobytes() == expected[key].tobytes()
    # A worker begins again there.
    assert kept.step("sessions/b", gradient(4), worker="w", sequence=1).result.step == 4
    assert kept.pull("sessions/b")["w"].tobytes() == kept.pull(NAME)["w"].tobytes()
    assert safetensors.numpy.load(at_three)["parameter/w"].tobytes() != kept.pull(NAME)["w"].tobytes()
    with expect_refusal() as told:
        kept.sessions.ForkSession(pb.ForkSessionRequest(name=NAME, session_id="b"), timeout=20)
    assert told.reason == "SESSION_EXISTS"


def test_a_session_moves_to_a_server_that_keeps_nothing(kept: Client, client: Client) -> None:
    data = export(kept)
    made = receive(client, data, session_id="moved", request_id="import").session
    assert receive(client, data, session_id="moved", request_id="import").session == made
    assert (made.step, made.spec.durability.mode) == (3, DurabilityMode.DURABILITY_MODE_EPHEMERAL)
    for there in (kept.step(NAME, gradient(4)), client.step(made.name, gradient(4))):
        assert there.result.step == 4
    assert client.pull(made.name)["w"].tobytes() == kept.pull(NAME)["w"].tobytes()
    back = receive(kept, export(client, made.name), session_id="back").session
    assert back.spec.durability.mode == DurabilityMode.DURABILITY_MODE_JOURNAL
    assert kept.step(back.name, gradient(5)).result.durable_step == 5
    client.sessions.DeleteSession(pb.DeleteSessionRequest(name=made.name), timeout=20)


def test_a_file_that_another_program_has_changed_needs_no_checksums(kept: Client) -> None:
    data = export(kept)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = safetensors.numpy.load(data)
    del tensors["checksums"]
    tensors["slot/m/w"] = np.full_like(tensors["slot/m/w"], 7)
    made = receive(
        kept, safetensors.numpy.save(tensors, header["__metadata__"]), session_id="changed"
    ).session
    assert made.step == 3
    after = safetensors.numpy.load(export(kept, made.name))
    assert after.keys() == {*tensors, "checksums"}
    for name, value in tensors.items():
        assert after[name].tobytes() == value.tobytes()
    del tensors["slot/m/w"]
    with expect_refusal() as told:
        receive(kept, safetensors.numpy.save(tensors, header["__metadata__"]))
    assert told.reason == "SNAPSHOT_MALFORMED"


def test_bytes_that_are_no_snapshot(kept: Client) -> None:
    data = export(kept)
    flipped = bytearray(data)
    flipped[-100] ^= 1
    for wrong in (b"", b"no snapshot", data[:-1], bytes(flipped), b"\xff" * 100):
        with expect_refusal() as told:
            receive(kept, wrong)
        assert told.reason == "SNAPSHOT_MALFORMED"
    with expect_refusal() as told:
        receive(kept, data[:-1], byte_count=len(data))
    assert told.reason == "STREAM_TRUNCATED"
    with expect_refusal() as told:
        receive(kept, data, byte_count=1 << 60)
    assert told.reason == "LIMIT_EXCEEDED"
    assert [s.name for s in kept.sessions.ListSessions(pb.ListSessionsRequest()).sessions] == [NAME]


def test_a_damaged_snapshot_is_not_gone_back_to(tmp_path: Path) -> None:
    with running(tmp_path) as (_, client):
        client.create(VALUES, adam(), session_id="a")
        client.step(NAME, gradient(1))
        save(client)
        client.step(NAME, gradient(2))
        (path,) = (tmp_path / "sessions" / "a").glob("kept-*.safetensors")
        path.write_bytes(path.read_bytes()[:-3])
        before = state(client, NAME)
        for weights_only in (False, True):
            with expect_refusal() as told:
                request = pb.RestoreSnapshotRequest(name=f"{NAME}/snapshots/1", weights_only=weights_only)
                client.sessions.RestoreSnapshot(request, timeout=20)
            assert told.reason == "SNAPSHOT_DAMAGED"
        with expect_refusal() as told:
            client.sessions.ForkSession(pb.ForkSessionRequest(name=f"{NAME}/snapshots/1"), timeout=20)
        assert told.reason == "SNAPSHOT_DAMAGED"
        with expect_refusal() as told:
            export(client, f"{NAME}/snapshots/1")
        assert told.reason == "SNAPSHOT_DAMAGED"
        assert state(client, NAME) == before


def test_names_of_snapshots(kept: Client) -> None:
    for name in ("sessions/a", "sessions/a/snapshots/", "sessions/a/snapshots/01", "sessions/a/snapshots/x"):
        with expect_refusal() as told:
            kept.sessions.DeleteSnapshot(pb.DeleteSnapshotRequest(name=name), timeout=20)
        assert (told.reason, told.fields) == ("MALFORMED_NAME", ["name"])


def test_a_snapshot_opens_in_numpy(kept: Client) -> None:
    """As any safetensors file does; tests/conformance/sources open it in PyTorch and JAX."""
    tensors = safetensors.numpy.load(export(kept))
    assert {name: (t.dtype, t.shape) for name, t in tensors.items() if t.dtype != np.uint8} == {
        f"{kind}/{name}": (value.dtype, value.shape)
        for kind in ("parameter", "slot/m", "slot/v")
        for name, value in VALUES.items()
    }
    assert tensors["parameter/w"].tobytes() == kept.pull(NAME)["w"].tobytes()
    assert np.abs(tensors["slot/m/w"]).max() > 0
