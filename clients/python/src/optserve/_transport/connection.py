"""The connection to a server: its gRPC channel, and how calls are made on it."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from optserve import coercion, errors
from optserve._codec.chunks import CHUNK_BYTES
from optserve._transport import fork
from optserve._transport.channel import Channel
from optserve._transport.data_channel import DataChannel, NoDataConnection
from optserve._transport.data_connection import host_and_port
from optserve._transport.diagnosis import diagnose_connection
from optserve._transport.grpc_channel import GrpcChannel, Metadata
from optserve._transport.locality import is_local
from optserve._transport.methods import StreamMethods
from optserve._transport.retry import Deadline, Retry
from optserve._transport.service_config import make_service_config
from optserve._transport.watchdog import Watchdog
from optserve.v1 import (
    capabilities_service_pb2_grpc,
    function_service_pb2_grpc,
    session_service_pb2_grpc,
    worker_service_pb2_grpc,
)

Request = TypeVar("Request")
T = TypeVar("T")

_log = logging.getLogger("optserve")

NO_DATA_PAUSE_S = 10.0, 640.0
"""How long no data connection is tried after one could not be made: at first, and at most."""

MESSAGE_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # gRPC's own retries stop silently for calls larger than this.
    ("grpc.per_rpc_retry_buffer_size", 4 * CHUNK_BYTES),
    # More often than balancers forget a silent connection (350 s), and less often than
    # servers suffer by default (300 s).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Soon, because calls are made again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection of one's own for every client.
    ("grpc.use_local_subchannel_pool", 1),
)


class Closable(Protocol):
    """An object that is closed together with a connection."""

    def close(self) -> None:
        """Closes it; more than once does no harm."""
        ...


class Connection:
    """A gRPC channel, its stubs, and the defaults of every call.

    After a fork, the child gets a channel of its own.

    Args:
        target: ``host:port``.
        timeout: seconds that a call may take, with all its attempts.
        token: bearer token sent with every call.
        credentials: of the channel; None for a plain connection.
        retry: how often a call is made again.
        progress: whether long transfers show a bar; None lets them decide.
        shared_memory: whether memory may be shared with a server on this host.
        grpc_retries: whether gRPC makes reads again, if ``retry`` does not.
        data_connections: whether streams may have connections of their own beside gRPC.

    Attributes:
        target: as given.
        shares_memory: whether sharing memory may succeed, as far as is known.
        data_address: host and port of data connections; None if there are none.
        watchdog: cancels the waits of streams.
    """

    def __init__(
        self,
        target: str,
        timeout: float,
        token: str | None,
        credentials: grpc.ChannelCredentials | None,
        retry: Retry,
        progress: bool | None,
        shared_memory: bool = True,
        grpc_retries: bool = False,
        data_connections: bool = True,
    ) -> None:
        self.timeout = timeout
        self.retry = retry
        self.progress = progress
        self.shares_memory = shared_memory and is_local(target)
        self.target, self._credentials = target, credentials
        # Over TLS, the channel's own connection is the only one that is encrypted.
        self.data_address = host_and_port(target) if data_connections and credentials is None else None
        self._data_pause, self._no_data_until = NO_DATA_PAUSE_S[0], 0.0
        self.metadata: Metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._options = (
            *OPTIONS,
            # A proxy elsewhere cannot reach a loopback address of this machine.
            ("grpc.enable_http_proxy", int(not is_local(target))),
            ("grpc.service_config", make_service_config(retries=grpc_retries)),
        )
        self.watchdog = Watchdog()
        weakref.finalize(self, self.watchdog.close)
        self._closables: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._open_channel()
        fork.register_after_fork(self)

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, T], request: Request, timeout: float | None = None
    ) -> T:
        """Makes a unary call that may be made again.

        Raises:
            OptserveError: it failed.
        """
        return self.run(lambda left: method(request, timeout=left, metadata=self.metadata), timeout)

    def sleep_while_connecting(self, seconds: float) -> None:
        """Sleeps for some seconds between two attempts, in which gRPC connects.

        With the older poller gRPC makes progress only while a call waits: between calls that fail at once,
        it looks after a connection every five seconds alone. So a health check waits for the connection.
        """
        until = Deadline(seconds)
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed meanwhile
            self.health.Check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        time.sleep(until.remaining())

    def run(self, attempt: Callable[[float], T], timeout: float | None = None) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Raises:
            OptserveError: the last failure.
        """
        deadline = Deadline(coercion.to_timeout(self.timeout, timeout))
        return self.retry.run(attempt, deadline, self.add_error_context, self.sleep_while_connecting)

    def add_error_context(self, error: errors.OptserveError, attempts: int, deadline: Deadline) -> None:
        """Adds to an error that ends a call how long and how often the call was tried, and why it may be."""
        if not isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
            return
        seconds = deadline.seconds - deadline.remaining()
        if attempts > 1:
            error.message += f" (tried {attempts} times in {seconds:.3g} s)"
        cause = ""
        if isinstance(error, errors.Unavailable) and error.reason is None:
            proxied = not is_local(self.target)
            address = host_and_port(self.target)
            cause = diagnose_connection(address, is_tls=self._credentials is not None, uses_proxy=proxied)
        if cause:
            error.message += f": {cause}"

    def open_steps(self, plan: bytes) -> Channel:
        """Opens a call of StepStream.

        Args:
            plan: the encoded message with the stream's first plan, which is sent.
        """
        call = GrpcChannel(self.streams.step, self.metadata)
        if self.data_address is None or time.monotonic() < self._no_data_until:
            call.send([(plan,)])
            return call
        return DataChannel(call, plan, self.data_address)

    def disable_data_connections(self, why: NoDataConnection) -> None:
        """Makes no further attempt at data connections; for a while, if one was offered."""
        if self.data_address is not None:
            _log.info("steps go over gRPC, and not over a connection of their own: %s", why)
        now = time.monotonic()
        if not why.offered:
            self.data_address = None
        elif now >= self._no_data_until:  # of several streams, the first that fails
            self._no_data_until = now + self._data_pause
            self._data_pause = min(2 * self._data_pause, NO_DATA_PAUSE_S[1])

    def register_closable(self, closable: Closable) -> None:
        """Has something closed before the connection is, for as long as it lives."""
        self._closables.add(closable)

    def close(self) -> None:
        """Closes the channel; open streams end."""
        for closable in list(self._closables):
            closable.close()
        self.watchdog.close()
        self.channel.close()

    def after_fork(self) -> None:
        """Opens a channel of the child's own; the parent's is left alone."""
        stubs = self.sessions, self.workers, self.streams, self.functions, self.capabilities
        fork.keep_alive(self.channel, *stubs)
        self.watchdog.after_fork()
        self._open_channel()

    def _open_channel(self) -> None:
        self.channel = (
            grpc.insecure_channel(self.target, options=self._options)
            if self._credentials is None
            else grpc.secure_channel(self.target, self._credentials, options=self._options)
        )
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(self.channel)
        self.streams = StreamMethods(self.channel)
        self.functions = function_service_pb2_grpc.FunctionServiceStub(self.channel)
        self.capabilities = capabilities_service_pb2_grpc.CapabilitiesServiceStub(self.channel)
