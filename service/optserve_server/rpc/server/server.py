"""The gRPC server: its options, its services, and its end."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.reflection_pb2_grpc import (  # type: ignore[import-untyped]
    add_ServerReflectionServicer_to_server,
)

from optserve.v1 import (
    capabilities_service_pb2,
    function_service_pb2,
    session_service_pb2,
    worker_service_pb2,
)
from optserve.v1.capabilities_service_pb2_grpc import add_CapabilitiesServiceServicer_to_server
from optserve.v1.function_service_pb2_grpc import add_FunctionServiceServicer_to_server
from optserve.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from optserve.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server
from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.durability.eviction import evict_session
from optserve_server.errors import DomainError
from optserve_server.resources.garbage import collect_garbage
from optserve_server.rpc.authentication.identity import Identities
from optserve_server.rpc.context.drain import Drain
from optserve_server.rpc.execution.coordination import Coordination
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.middleware.admission import LAST_ANSWERS_S, Admission
from optserve_server.rpc.middleware.arrivals import Arrivals
from optserve_server.rpc.middleware.call_interceptor import CallInterceptor, Tracer
from optserve_server.rpc.server.loop_lag import LoopLag
from optserve_server.rpc.services.capabilities_service import CapabilitiesService
from optserve_server.rpc.services.function_service import FunctionService
from optserve_server.rpc.services.health_service import HealthService
from optserve_server.rpc.services.session_service import SessionService
from optserve_server.rpc.services.worker_service import WorkerService
from optserve_server.rpc.streaming.memory_sharing import MemorySharing
from optserve_server.rpc.transport.data_connections import DataConnections
from optserve_server.rpc.transport.listening import Listening
from optserve_server.rpc.transport.peer_limits import PeerLimits
from optserve_server.rpc.transport.tls import Certificates
from optserve_server.sessions.leases import Expired, find_expired
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import ExpiryAction

SERVICES = tuple(
    file.services_by_name[name].full_name
    for file, name in (
        (session_service_pb2.DESCRIPTOR, "SessionService"),
        (worker_service_pb2.DESCRIPTOR, "WorkerService"),
        (function_service_pb2.DESCRIPTOR, "FunctionService"),
        (capabilities_service_pb2.DESCRIPTOR, "CapabilitiesService"),
    )
)
"""Full names of this contract's services."""

_CHANGING = ("", SERVICES[0])
"""Those that gRPC's health service says are not served where they cannot change sessions."""

_LAST_SAVES = 2.0
"""Seconds that saving gets at the end in any case."""

_SWEEP = 0.5
"""Seconds between two looks at tokens, idle streams and leases."""

_COLLECTION_INTERVAL = 600.0
"""Seconds between two collections of garbage, which hold the interpreter."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """Limits and credentials of a server.

    Attributes:
        max_concurrent_rpcs: calls in flight beyond which gRPC itself refuses, without details.
        max_calls_per_connection: calls at once on one connection. Further ones wait in the client, and gRPC
            drops a connection whose cancelled calls pile up to this number.
        max_connections: gRPC connections beyond which new ones are closed; 0 for no limit.
        max_connections_per_peer: the same of one peer; 0 for no limit.
        max_data_connections: data connections beyond which no more are offered; 0 for no limit.
        handshake_seconds: within which a new connection has to be ready for calls.
        connection_idle_seconds: how long a connection may have no call; 0 for no limit.
        stream_idle_seconds: how long a stream may be silent; 0 for no limit.
        session_lease_seconds: the lease of sessions that state none; 0 for none.
        reflection: whether the server describes its contract to authenticated callers.
        shared_memory: whether it shares memory with clients on its host.
        max_shared_memory_descriptors: file descriptors that this may hold.
        shared_memory_idle_seconds: after which unused memory is dropped; 0 for never.
    """

    max_concurrent_rpcs: int = 2000
    max_calls_per_connection: int = 1000
    max_connections: int = 0
    max_connections_per_peer: int = 0
    max_data_connections: int = 0
    handshake_seconds: float = 10.0
    connection_idle_seconds: float = 0.0
    stream_idle_seconds: float = 0.0
    session_lease_seconds: float = 0.0
    reflection: bool = True
    shared_memory: bool = True
    max_shared_memory_descriptors: int = 256
    shared_memory_idle_seconds: float = 0.0


class _GenericHandlers:
    """Takes handlers from generated code for a server, but not as registered methods.

    For each registered method grpcio keeps a task that waits for the next call of it, and goes
    through all of these tasks at every call: with 30 methods that is a fifth of a small unary step.
    """

    def __init__(self, server: aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Does nothing; the generic handlers serve the same methods."""


class Server:
    """A server of the whole contract, with health and reflection.

    Args:
        namespaces: the sessions.
        threads: for long work of one namespace; there is one more for the others.
        identities: who may call; anybody when None.
        conditions: on what conditions.
        durability_manager: makes sessions durable; None if all are held in memory alone.
        tracer: traces calls; None if nothing does.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        threads: int = 2,
        identities: Identities | None = None,
        conditions: Conditions | None = None,
        durability_manager: DurabilityManager | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        conditions = conditions or Conditions()
        self.durability_manager = durability_manager
        self._drain = Drain()
        self._health = HealthService(("", *SERVICES))
        self.identities = identities or Identities(namespaces)
        self._admission = Admission(self.identities, self._drain, conditions.stream_idle_seconds)
        self._execution = execution = Execution(threads, self.durability_manager)
        self.namespaces, self.meters = namespaces, execution.meters
        self._lease_seconds = conditions.session_lease_seconds
        limits = namespaces.limits
        max_message_bytes = limits.max_message_bytes
        self._arrivals = Arrivals(max_message_bytes, namespaces.budget)
        self.peer_limits = PeerLimits(conditions.max_connections_per_peer)
        count_cancelled = self.peer_limits.count_cancelled
        self._server = aio.server(
            interceptors=[
                CallInterceptor(
                    self._admission,
                    self.meters,
                    execution.turns,
                    tracer,
                    limits.max_tensors,
                    count_cancelled,
                )
            ],
            options=_options(conditions, max_message_bytes),
            maximum_concurrent_rpcs=conditions.max_concurrent_rpcs,
        )
        self._sharing = MemorySharing(
            execution,
            conditions.shared_memory,
            conditions.max_shared_memory_descriptors,
            conditions.shared_memory_idle_seconds,
        )
        self.regions = self._sharing.regions
        self.data_connections = DataConnections(conditions.max_data_connections)
        self.port = 0
        self.certificates: Certificates | None = None
        self._coordination = Coordination(execution)
        sessions = SessionService(
            namespaces.limits,
            execution,
            self._drain,
            self._sharing,
            self.data_connections,
            self._coordination,
            self.durability_manager,
        )
        self._sessions = sessions
        generic: Any = _GenericHandlers(self._server)
        add_SessionServiceServicer_to_server(sessions, generic)
        add_WorkerServiceServicer_to_server(
            WorkerService(sessions.find_session, self._coordination, execution), generic
        )
        add_FunctionServiceServicer_to_server(FunctionService(execution, namespaces.backend), generic)
        capabilities = CapabilitiesService(namespaces.backend, namespaces.limits, self._list_features)
        add_CapabilitiesServiceServicer_to_server(capabilities, generic)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)
        if conditions.reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), generic)
        self.loop_lag = LoopLag()
        self._looking: list[asyncio.Task[None]] = []
        self._told_ready = True

    def _list_features(self) -> list[str]:
        """Names of what the server offers beyond the core of the contract."""
        offered = {
            "data_connections": self.data_connections.is_listening,
            "shared_memory": self._sharing.is_available,
            "snapshots": self.durability_manager is not None,
            "push": True,
            "metrics": True,
            "watch": True,
            "workers": True,
        }
        return [name for name, is_offered in offered.items() if is_offered]

    @property
    def calls_in_flight(self) -> int:
        """Calls being answered."""
        return self._admission.call_count

    @property
    def calls_waiting(self) -> int:
        """Calls that wait for something that others do."""
        return sum(call.waits for call in self._admission.list_calls() if call.caller is not None)

    @property
    def calls_cut(self) -> int:
        """Calls that the shutdown has ended."""
        return self._admission.cut_count

    @property
    def health_calls(self) -> int:
        """Calls of the health service being answered, which are counted apart."""
        return self._admission.health_call_count

    @property
    def ready(self) -> bool:
        """Whether all calls are taken."""
        return not self.list_problems()

    def list_problems(self) -> list[str]:
        """Why calls, or some of them, are not taken; nothing where all are."""
        troubles = []
        if not self._looking:
            troubles.append("the server has not started")
        if self._drain.draining:
            troubles.append("the server is shutting down")
        if self.durability_manager is not None and self.durability_manager.disk_state.trouble:
            troubles.append(self.durability_manager.disk_state.trouble)
        if not self.regions.has_room:
            held, limit = self.regions.descriptor_count, self.regions.max_descriptors
            troubles.append(f"shared memory holds {held} of at most {limit} file descriptors")
        return troubles

    async def list_snapshots(self, session: Session) -> list[dict[str, Any]]:
        """A session's snapshots, the latest first: step, time, bytes, and whether a client asked for it."""
        if session.durability is None or self.durability_manager is None:
            return []
        folder = session.durability.folder
        return await self.durability_manager.in_thread(
            lambda: [
                {"step": file.step, "time": file.created, "byte_count": file.byte_count, "kept": file.kept}
                for file in folder.snapshots()
            ]
        )

    async def start(self, listening: Listening) -> int:
        """Listens, and returns the TCP port: the one chosen where that was 0.

        Raises:
            RuntimeError: an address cannot be bound.
        """
        bound = self.port = listening.open(self._server)
        self.certificates = listening.certificates
        listening.open_data(self.data_connections, bound)
        self._sharing.start()
        await self._server.start()
        if listening.host is not None:
            self.peer_limits.start(bound)
        self._health.set_status(("", *SERVICES), serving=True)
        self._coordination.schedule_timers(
            s for namespace in self.namespaces for s in namespace.store.list_sessions()
        )
        self._looking = [
            asyncio.create_task(self._run_periodic_tasks()),
            asyncio.create_task(self.loop_lag.measure()),
            asyncio.create_task(self.peer_limits.run()),
            asyncio.create_task(self._arrivals.run(self._admission.list_calls)),
        ]
        return bound

    async def stop(self, grace: float) -> None:
        """Refuses new calls, waits up to ``grace`` seconds for the others, saves sessions, and closes."""
        ends = time.monotonic() + grace
        self._health.shut_down()
        # A session that is at work may hold this up; calls that still wait then are cut.
        await asyncio.wait({asyncio.create_task(self._coordination.stop())}, timeout=grace)
        await self._admission.drain(max(0.0, ends - time.monotonic()))
        await self._server.stop(LAST_ANSWERS_S)
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        self.peer_limits.close()
        await self._sharing.stop()
        await self.data_connections.stop()
        self._execution.close()
        if self.durability_manager is not None:
            # A session that is still at work cannot be saved; its journal has what was acknowledged.
            seconds = max(_LAST_SAVES, ends - time.monotonic())
            closing = asyncio.create_task(self.durability_manager.close(seconds))
            await asyncio.wait({closing}, timeout=seconds + LAST_ANSWERS_S)
            if not closing.done():
                _log.warning("sessions were at work until the end, and not all are saved")
            else:
                closing.result()

    async def _run_periodic_tasks(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                self._update_health()
                self._execution.meters.count_new()
                self._admission.end_expired_calls()
                self.regions.drop_idle_regions()
                if self.certificates is not None:
                    self.certificates.log_expiry()
                collect_garbage(_COLLECTION_INTERVAL)
                if self.durability_manager is not None:
                    self.durability_manager.save_due_sessions()
                await self._expire_sessions()
            except Exception:
                # The next look may go well, and calls need none.
                _log.exception("defect while looking after open calls")

    def _update_health(self) -> None:
        """Lets the health service say what readiness says."""
        if self.ready == self._told_ready:
            return
        self._told_ready = self.ready
        self._health.set_status(_CHANGING, serving=self._told_ready)

    async def _expire_sessions(self) -> None:
        for over in find_expired(self.namespaces, self._lease_seconds):
            if over.action is ExpiryAction.DELETE:
                await self._sessions.delete_expired_session(over.session, over.namespace.store)
            elif not await self._evict_expired(over):
                continue
            self.meters.sessions_expired[over.action.value] += 1
            _log.info("lease ended", extra={"facts": {"session": over.session.id}})

    async def _evict_expired(self, over: Expired) -> bool:
        """Evicts a session and returns True; returns False for a session that is stored nowhere else."""
        durability, started = over.session.durability, time.monotonic()
        if self.durability_manager is None or durability is None:
            return False
        try:
            unused = partial(over.is_unused_since, started)
            return await evict_session(self.durability_manager, durability, over.namespace.store, unused)
        except DomainError as error:
            _log.warning("sessions/%s stays in memory: %s", over.session.id, error.message)
            return False


MAX_UNTAKEN_CALLS = 8000
"""Calls that wait until the event loop takes them, cancelled ones included; gRPC cancels more without a
reason. Its own number is 3000, from 1000 on by chance, which a few connections reset at once."""

KEEPALIVE_S = 60.0
"""Seconds of silence after which the server asks whether a connection's client is there."""

KEEPALIVE_TIMEOUT_S = 20.0
"""Seconds within which it has to answer."""

MAX_UNREAD_STREAM_BYTES = 4 << 20
"""Bytes of a stream that may wait to be read."""


def _options(conditions: Conditions, max_message_bytes: int) -> list[tuple[str, int]]:
    limits = []
    if conditions.max_connections:
        limits.append(("grpc.max_allowed_incoming_connections", conditions.max_connections))
    if conditions.connection_idle_seconds:
        limits.append(("grpc.max_connection_idle_ms", int(conditions.connection_idle_seconds * 1000)))
    return [
        *limits,
        ("grpc.max_concurrent_streams", conditions.max_calls_per_connection),
        ("grpc.server.max_pending_requests", MAX_UNTAKEN_CALLS // 2),
        ("grpc.server.max_pending_requests_hard_limit", MAX_UNTAKEN_CALLS),
        ("grpc.server_handshake_timeout_ms", int(conditions.handshake_seconds * 1000)),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.so_reuseport", 0),
        # A hostile client's headers; those of ours are a few hundred bytes.
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 32 << 10),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # What a client may send before it is read. gRPC lets that grow to twice what it takes for the
        # line's capacity, and takes a loaded server's slowness for capacity: to a whole gradient, in time.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", MAX_UNREAD_STREAM_BYTES),
    ]
