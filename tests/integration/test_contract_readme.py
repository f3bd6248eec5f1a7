"""The exchange of proto/README.md: a server answers its messages with its messages."""

from __future__ import annotations

import queue
import re
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, sgd, tensor
from tests.support.server import running_server

README = Path(__file__).parents[2] / "proto/README.md"
BLOCKS = re.findall(r"^```textproto\n# ([^\n]+)\n(.*?)^```", README.read_text(), re.S | re.M)
"""Who sends each message, and the message in text format."""
SECONDS = 20.0


class Stream:
    """A call of StepStream, message by message."""

    def __init__(self, client: Client) -> None:
        self._outbox: queue.SimpleQueue[pb.StepStreamRequest | None] = queue.SimpleQueue()
        self.call = client.sessions.StepStream(iter(self._outbox.get, None), timeout=SECONDS)

    def send(self, text: str) -> None:
        self._outbox.put(text_format.Parse(text, pb.StepStreamRequest()))

    def close(self) -> None:
        self._outbox.put(None)
        self.call.cancel()


def wait_for_step(client: Client, name: str, step: int) -> None:
    deadline = time.monotonic() + SECONDS
    while client.sessions.GetSession(pb.GetSessionRequest(name=name)).session.step < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_exchange_of_the_readme() -> None:
    """On a server of its own: the page gives the session's name."""
    senders = [sender for sender, _ in BLOCKS]
    assert senders.count("client, new stream") == 2
    assert "lost" in senders
    with running_server() as server, Client(server.address) as client:
        w = pb.ParameterInit(name="w", value=tensor(np.array([1, 2], np.float32)))
        client.sessions.CreateSession(
            pb.CreateSessionRequest(session_id="walk", spec=sgd(0.5), parameters=[w])
        )
        stream, step = Stream(client), 0
        for sender, text in BLOCKS:
            if sender == "client, new stream":
                stream.close()
                stream = Stream(client)
            if sender.startswith("client"):
                stream.send(text)
            elif sender == "lost":
                wait_for_step(client, "sessions/walk", step + 1)
                stream.call.cancel()
            elif sender == "server":
                expected = text_format.Parse(text, pb.StepStreamResponse())
                assert next(stream.call) == expected
                step = max(step, expected.result.step)
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    next(stream.call)
                assert sender == f"server, {caught.value.code().name}"
                metadata = dict(caught.value.trailing_metadata())
                status = Status.FromString(metadata["grpc-status-details-bin"])
                info = ErrorInfo()
                assert status.details[0].Unpack(info)
                assert info == text_format.Parse(text, ErrorInfo())
        stream.close()
        assert client.sessions.GetSession(pb.GetSessionRequest(name="sessions/walk")).session.step == 3
