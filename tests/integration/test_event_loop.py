"""Calls on many tensors do their work beside the event loop, which answers others meanwhile."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from tests.integration.client import Client, expect_refusal, plan_message, step_messages
from tests.integration.test_operations import samples
from tests.support.server import running_server

TENSORS = 20_000


def test_nothing_holds_the_loop(tmp_path: Path) -> None:
    with (
        running_server(module="tests.integration.watched_server", data_dir=tmp_path) as server,
        Client(server.address) as client,
    ):
        values = {f"layer{index}": np.ones(2, np.float32) for index in range(TENSORS)}
        name = client.create(values, request_id="once").name
        client.sessions.GetSession(pb.GetSessionRequest(name=name), timeout=60)
        client.sessions.ListSessions(pb.ListSessionsRequest(), timeout=60)
        assert len(client.pull(name)) == TENSORS
        assert client.step(name, values).result.step == 1
        steps = [*step_messages(bytes(8 * TENSORS)), *step_messages(bytes(8 * TENSORS))]
        planned, *answers = client.exchange([plan_message(name, pull=pb.PullOptions()), *steps])
        assert len(planned.planned.gradients.tensors) == TENSORS
        assert [answer.result.step for answer in answers] == [2, 3]
        sharing = pb.ShareMemoryRequest(name=name, pull=pb.PullOptions())
        shared = client.sessions.ShareMemory(sharing, timeout=60)
        assert len(shared.parameters.layout) == TENSORS
        made = client.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=name), timeout=60)
        for weights_only in (False, True):
            request = pb.RestoreSnapshotRequest(name=made.snapshot.name, weights_only=weights_only)
            client.sessions.RestoreSnapshot(request, timeout=60)
        fork = pb.ForkSessionRequest(name=made.snapshot.name, session_id="fork")
        assert len(client.sessions.ForkSession(fork, timeout=60).session.layout) == TENSORS
        assert server.stop() == 0
        busy = [line["callback"] for line in server.log() if line["message"] == "busy"]
    # The server's own start is one callback, before anybody is answered.
    assert [callback for callback in busy if "coro=<serve()" not in callback] == []


def test_a_request_of_too_many_tensors_is_refused_before_it_is_decoded() -> None:
    """Of a million, which take 15 seconds to decode and half a second of it at once."""
    one = pb.CreateSessionRequest()
    parameter = one.parameters.add(name="w")
    parameter.upload.dtype = tensor_pb2.DATA_TYPE_FLOAT32
    parameter.upload.shape.append(1)
    with running_server() as server, Client(server.address) as client:
        create = client.channel.unary_unary("/optserve.v1.SessionService/CreateSession")
        began = time.monotonic()
        with expect_refusal() as told:
            create(one.SerializeToString() * 1_000_000, timeout=60)
        assert time.monotonic() - began < 5
    assert (told.reason, told.fields) == ("LIMIT_EXCEEDED", ["parameters"])
    assert told.metadata == {"limit": "max_tensors", "value": "100000"}


def test_a_plan_of_a_million_names_does_not_hold_the_loop() -> None:
    """Neither its names nor as many fields of a message of a stream."""
    plan = pb.StepPlan(session="sessions/s", tensors=["a"] * 1_000_000)
    messages = {
        "LIMIT_EXCEEDED": pb.StepStreamRequest(plan=plan).SerializeToString(),
        "MALFORMED_MESSAGE": pb.StepStreamRequest(plan=pb.StepPlan()).SerializeToString() * 1_000_000,
    }
    with running_server(metrics_port=0) as server, Client(server.address) as client:
        stream = client.channel.stream_stream("/optserve.v1.SessionService/StepStream")
        for reason, message in messages.items():
            with expect_refusal() as told:
                list(stream(iter([message]), timeout=60))
            assert told.reason == reason
        assert samples(server)["optserve_event_loop_lag_seconds", ""] < 2.0


def test_the_loops_lag_is_in_the_metrics() -> None:
    with running_server(metrics_port=0) as server:
        (told,) = [line for line in server.log() if line["message"] == "listening"]
        with urllib.request.urlopen(f"http://127.0.0.1:{told['metrics_port']}/metrics", timeout=20) as page:
            lines = page.read().decode().splitlines()
    (lag,) = [line.split()[1] for line in lines if line.startswith("optserve_event_loop_lag_seconds ")]
    assert 0 <= float(lag) < 20
