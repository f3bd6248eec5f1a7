"""The channel to a server, and how calls are made on it."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

import grpc

from optserve import coercion
from optserve.chunks import CHUNK_BYTES
from optserve.data_call import DataCall, NoDataConnection, QueuedDataCall
from optserve.data_connection import host_and_port
from optserve.direct_call import DirectCall
from optserve.queued_call import QueuedCall
from optserve.retry import Deadline, Retry
from optserve.service_config import for_channel
from optserve.shared_memory import SharedMemory, is_local
from optserve.streams import STEP_STREAM, Streams
from optserve.v1 import capabilities_service_pb2_grpc, function_service_pb2_grpc, session_service_pb2_grpc

Request = TypeVar("Request")
T = TypeVar("T")

_log = logging.getLogger("optserve")

NO_DATA_SECONDS = 10.0, 640.0
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
    # Soon, because calls are tried again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A connection of one's own for every client.
    ("grpc.use_local_subchannel_pool", 1),
)


class Connection:
    """A channel, its stubs, and the defaults of every call.

    Args:
        target: ``host:port``.
        timeout: seconds that a call may take, with all its attempts.
        token: bearer token sent with every call.
        credentials: of the channel; None for a plain connection.
        retry: how often a call is tried again.
        progress: whether long transfers show a bar; None lets them decide.
        shared_memory: whether memory may be shared with a server on this host.
        grpc_retries: whether gRPC tries reads again, where ``retry`` does not.
        data_connections: whether streams may have connections of their own beside gRPC.

    Attributes:
        shares_memory: whether that is worth an attempt, as far as is known.
        data_address: where data connections are worth one; None for nowhere.
        memories: what is shared, given back when the connection is closed.
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
        local = is_local(target)
        self.timeout = timeout
        self.retry = retry
        self.progress = progress
        self.shares_memory = shared_memory and local
        # Over TLS, the channel's own connection is the only one that is encrypted.
        self.data_address = host_and_port(target) if data_connections and credentials is None else None
        self._data_pause, self._no_data_until = NO_DATA_SECONDS[0], 0.0
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = (
            *OPTIONS,
            ("grpc.service_config", for_channel(retries=grpc_retries)),
            # The variable http_proxy is meant for other hosts.
            ("grpc.enable_http_proxy", 0 if local else 1),
        )
        self.channel = (
            grpc.insecure_channel(target, options=options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=options)
        )
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.streams = Streams(self.channel)
        self.functions = function_service_pb2_grpc.FunctionServiceStub(self.channel)
        self.capabilities = capabilities_service_pb2_grpc.CapabilitiesServiceStub(self.channel)
        self._calls: weakref.WeakSet[DirectCall | DataCall | QueuedDataCall] = weakref.WeakSet()
        self.memories: weakref.WeakSet[SharedMemory] = weakref.WeakSet()

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, T], request: Request, timeout: float | None = None
    ) -> T:
        """Makes a unary call that may be tried again.

        Raises:
            OptserveError: it failed.
        """
        return self.run(lambda left: method(request, timeout=left, metadata=self.metadata), timeout)

    def run(self, attempt: Callable[[float], T], timeout: float | None = None) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Raises:
            OptserveError: the last failure.
        """
        return self.retry.run(attempt, Deadline(coercion.timeout_or(self.timeout, timeout)))

    def queued_steps(self) -> QueuedCall:
        """A call of StepStream that sends in the background."""
        return QueuedCall(self.streams.step, self.metadata)

    def direct_steps(self) -> DirectCall:
        """A call of StepStream that its caller drives; where `optserve.direct_call.available`."""
        call = DirectCall(self.channel, STEP_STREAM, self.metadata)
        self._calls.add(call)
        return call

    def data_steps(self, alone: bool) -> DataCall | QueuedDataCall | None:
        """A call of StepStream over a data connection; None where there are none.

        Args:
            alone: whether its caller drives it; else it sends in the background.
        """
        if self.data_address is None or time.monotonic() < self._no_data_until:
            return None
        kind = DataCall if alone else QueuedDataCall
        call = kind(self.queued_steps(), self.data_address)
        self._calls.add(call)
        return call

    def no_data(self, why: NoDataConnection) -> None:
        """Makes no further attempt at data connections; for a while, where one was offered."""
        if self.data_address is not None:
            _log.info("steps go over gRPC, and not over a connection of their own: %s", why)
        now = time.monotonic()
        if not why.offered:
            self.data_address = None
        elif now >= self._no_data_until:  # of several streams, the first that fails
            self._no_data_until = now + self._data_pause
            self._data_pause = min(2 * self._data_pause, NO_DATA_SECONDS[1])

    def close(self) -> None:
        """Closes the channel; open streams end."""
        for call in list(self._calls):
            call.close()
        for memory in list(self.memories):
            memory.close()
        self.channel.close()
