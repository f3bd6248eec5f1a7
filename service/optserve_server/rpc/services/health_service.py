"""gRPC's standard health service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2 as pb  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthServicer  # type: ignore[import-untyped]

from optserve_server.rpc.context import calls

Status = pb.HealthCheckResponse.ServingStatus


class HealthService(HealthServicer):  # type: ignore[misc]  # the generated code has no types
    """Serving status by service.

    The library's own servicer writes the answers of Watch itself; this one yields them, so that
    health checks pass the call interceptor and are bounded like every other call.

    Args:
        services: names of the services; "" is the server as a whole.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(services, Status.NOT_SERVING)
        self._changed = asyncio.Event()
        self._is_final = False

    def set_status(self, services: Iterable[str], *, serving: bool) -> None:
        """Sets the status of services; has no effect after `shut_down`."""
        if not self._is_final:
            status = Status.SERVING if serving else Status.NOT_SERVING
            self._statuses |= dict.fromkeys(services, status)
            self._wake()

    def shut_down(self) -> None:
        """Sets every status to NOT_SERVING for good."""
        self.set_status(self._statuses, serving=False)
        self._is_final = True

    async def Check(self, request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)  # as the protocol says, whose reasons are not ours
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != last:
                yield pb.HealthCheckResponse(status=status)
            last = status
            with calls.suspend_idle_timeout():
                await changed.wait()

    def _wake(self) -> None:
        """Lets every watcher look again."""
        self._changed.set()
        self._changed = asyncio.Event()
