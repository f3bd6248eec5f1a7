"""The gRPC server: its options, its services, and its end."""

from __future__ import annotations

from concurrent.futures import Executor

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from optserve.v1 import capabilities_service_pb2, function_service_pb2, session_service_pb2
from optserve.v1.capabilities_service_pb2_grpc import add_CapabilitiesServiceServicer_to_server
from optserve.v1.function_service_pb2_grpc import add_FunctionServiceServicer_to_server
from optserve.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from optserve_server.rpc.capabilities import CapabilitiesService
from optserve_server.rpc.drain import Drain
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.framing import FramedStreams
from optserve_server.rpc.functions import FunctionService
from optserve_server.rpc.interceptors import Boundary
from optserve_server.rpc.sessions import SessionService
from optserve_server.rpc.sharing import Sharing
from optserve_server.sessions.store import Store

SERVICES = tuple(
    file.services_by_name[name].full_name
    for file, name in (
        (session_service_pb2.DESCRIPTOR, "SessionService"),
        (function_service_pb2.DESCRIPTOR, "FunctionService"),
        (capabilities_service_pb2.DESCRIPTOR, "CapabilitiesService"),
    )
)
"""Full names of this contract's services."""

_LAST_ANSWERS = 0.5
"""Seconds for answers on their way when the connections are closed."""


class Server:
    """A server of the whole contract, with health and reflection.

    Args:
        store: the sessions.
        executor: threads for long work.
        max_concurrent_rpcs: calls in flight beyond which new ones are refused at once.
    """

    def __init__(self, store: Store, executor: Executor, max_concurrent_rpcs: int) -> None:
        self._drain = Drain()
        self._health = health.aio.HealthServicer()
        self._server = aio.server(
            interceptors=[Boundary(self._drain), FramedStreams()],
            options=_options(store.limits.max_message_bytes),
            maximum_concurrent_rpcs=max_concurrent_rpcs,
        )
        execution = Execution(executor)
        self._sharing = Sharing(execution)
        sessions = SessionService(store, execution, self._drain, self._sharing)
        add_SessionServiceServicer_to_server(sessions, self._server)
        add_FunctionServiceServicer_to_server(FunctionService(execution, store.backend), self._server)
        add_CapabilitiesServiceServicer_to_server(CapabilitiesService(store), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens, and returns the port: the one chosen where ``port`` is 0.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._sharing.start()
        await self._server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self, grace: float) -> None:
        """Refuses new calls, waits up to ``grace`` seconds for the others, and closes."""
        await self._health.enter_graceful_shutdown()
        await self._drain.finish(grace)
        await self._server.stop(_LAST_ANSWERS)
        await self._sharing.stop()


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
