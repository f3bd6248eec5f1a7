"""Ready means that sessions can change: a disk that refuses writes takes that away, and gives it back."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_service_pb2_grpc import SessionServiceStub
from optserve_server.durability.disk_state import RETRY_AFTER_S
from optserve_server.durability.recovery import Recovery
from optserve_server.operations.http_server import HttpServer
from optserve_server.operations.operator_pages import make_operator_pages
from optserve_server.rpc.server.server import SERVICES, Server
from optserve_server.rpc.transport.listening import Listening
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.store import Limits
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.wire.messages.answers import encode_answer
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.integration.client import name_arrays, sgd
from tests.recovery.keeping import BACKEND, VALUES, run
from tests.support.disks import FailingDisk


class CountingDisk(FailingDisk):
    """Counts syncs."""

    syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        super().sync(fd)


@dataclass
class Serving:
    """A server in this process, and what asks it."""

    sessions: Any  # SessionServiceStub, whose types are of the synchronous one
    health: health_pb2_grpc.HealthStub
    metrics_port: int

    async def step(self) -> pb.StepResponse:
        return await self.sessions.Step(
            pb.StepRequest(name="sessions/a", gradients=name_arrays(VALUES)), timeout=10
        )

    async def page(self, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split(" ", 2)[1]), body

    async def is_serving(self, service: str = "") -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def serving(root: Path, disk: FailingDisk) -> AsyncIterator[Serving]:
    namespaces = Namespaces(BACKEND, Limits(durability=DurabilityMode.JOURNAL, durable=True))
    durability_manager = Recovery(root, namespaces, SPEC_TEXT, encode_answer, disk=disk).run()
    server = Server(namespaces, durability_manager=durability_manager)
    pages = HttpServer(make_operator_pages(server))
    metrics_port = await pages.start("127.0.0.1", 0)
    port = await server.start(Listening("127.0.0.1", 0, None, None))
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Serving(SessionServiceStub(channel), health_pb2_grpc.HealthStub(channel), metrics_port)
    await server.stop(1)
    await pages.stop()


@pytest.mark.parametrize(
    ("failing", "trouble"),
    [
        ({"sync": errno.EIO}, "the server's disk has failed"),
        ({"write": errno.ENOSPC}, "the server's disk is full"),
    ],
    ids=["EIO", "ENOSPC"],
)
def test_a_disk_that_refuses_is_not_ready(tmp_path: Path, failing: dict[str, int], trouble: str) -> None:
    disk = CountingDisk()
    ready = (200, '{"ready": true, "troubles": []}\n')

    async def live() -> None:
        async with serving(tmp_path, disk) as made:
            request = pb.CreateSessionRequest(session_id="a", spec=sgd())
            for one in name_arrays(VALUES):
                request.parameters.add(name=one.name, value=one.tensor)
            await made.sessions.CreateSession(request, timeout=10)
            await made.step()
            assert await made.page("/readyz") == ready
            disk.failing = dict(failing)
            with pytest.raises(aio.AioRpcError, match=trouble):
                await made.step()
            status, body = await made.page("/readyz")
            assert (status, json.loads(body)["troubles"]) == (503, [trouble])
            assert (await made.page("/healthz"))[0] == 200
            await _until(made, served=False)
            assert await made.is_serving(SERVICES[0]) is False
            assert await made.is_serving(SERVICES[1])  # functions need no disk
            assert len([m async for m in made.sessions.PullParameters(_pull(), timeout=10)]) > 0
            # Longer than until the next trial, which fails.
            await asyncio.sleep(RETRY_AFTER_S + 1)
            assert (await made.page("/readyz"))[0] == 503
            disk.failing = {}
            # No client steps, because none is sent here; the server notices without one.
            await _until(made, served=True)
            assert await made.page("/readyz") == ready
            assert not (tmp_path / "trial").exists()
            before = disk.syncs
            await asyncio.sleep(RETRY_AFTER_S + 1)
            assert disk.syncs == before  # a disk that is well is left alone
            disk.failing = dict(failing)
            with pytest.raises(aio.AioRpcError, match=trouble):
                await made.step()
            disk.failing = {}
            assert (await made.step()).result.step == 2
            assert await made.page("/readyz") == ready

    run(live())


def _pull() -> pb.PullParametersRequest:
    return pb.PullParametersRequest(name="sessions/a")


async def _until(made: Serving, served: bool) -> None:
    deadline = time.monotonic() + 10
    while await made.is_serving() is not served:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
