"""The call interceptor over a real socket: a defect is INTERNAL, and its text is not sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from grpc import aio

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.rpc.server.server import Server
from optserve_server.rpc.transport.listening import Listening
from optserve_server.sessions.namespaces import Namespaces
from tests.integration.client import Refusal, name_arrays, refusal, sgd, tensor

SECRET = "the secret of /etc/passwd"


class Broken(NumpyBackend):
    """A backend with a defect."""

    def compile(self, *_: object, **__: object) -> NoReturn:
        raise ZeroDivisionError(SECRET)


class Full(NumpyBackend):
    """A backend without memory."""

    def compile(self, *_: object, **__: object) -> NoReturn:
        raise MemoryError(SECRET)


async def _step_on(backend: NumpyBackend) -> tuple[Refusal, dict[str, Any], str]:
    server = Server(Namespaces(backend))
    port = await server.start(Listening())
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = SessionServiceStub(channel)
        values = {"w": np.ones(2, np.float32)}
        request = pb.CreateSessionRequest(spec=sgd(), session_id="s")
        request.parameters.add(name="w", value=tensor(values["w"]))
        await stub.CreateSession(request)
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Step(
                pb.StepRequest(name="sessions/s", gradients=name_arrays(values)),
                metadata=(("x-request-id", "broken-1"),),
            )
        trailing = dict(caught.value.trailing_metadata())
        described = str(trailing) + str(caught.value.details())
        told = refusal(caught.value)
    await server.stop(1)
    return told, trailing, described


def test_a_defect_is_internal_and_keeps_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        told, trailing, described = asyncio.run(_step_on(Broken()))
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert (told.metadata, told.applied) == ({"request_id": "broken-1"}, "unknown")
    assert trailing["x-request-id"] == "broken-1"
    assert "secret" not in described
    assert "ZeroDivision" not in described
    (defect,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert defect.exc_info is not None
    assert SECRET in str(defect.exc_info[1])


def test_no_memory_is_a_limit_and_no_defect() -> None:
    told, _, described = asyncio.run(_step_on(Full()))
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert (told.metadata, told.applied) == ({"limit": "memory"}, "unknown")
    assert told.retry_seconds == 1
    assert "secret" not in described


async def _send_malformed() -> list[Refusal]:
    """What every method says to bytes that are no message."""
    told = []
    server = Server(Namespaces(NumpyBackend()))
    port = await server.start(Listening())
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in (method.name for method in SERVICE.methods):
            call = channel.stream_stream(f"/{SERVICE.full_name}/{name}")(iter([b"\xff\xff\xff"]))
            with pytest.raises(grpc.RpcError) as caught:
                await call.read()
            told.append(refusal(caught.value))
    await server.stop(1)
    return told


SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"]


def test_bytes_that_are_no_message_are_told_so() -> None:
    for told in asyncio.run(_send_malformed()):
        assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
        assert told.message == "the message's bytes cannot be read"
