"""The connection to a server: its gRPC channel, and how calls are made on it."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from optserve import coercion, errors
from optserve._transport import fork
from optserve._transport.base_connection import BaseConnection
from optserve._transport.call import Call, CallSequence, Download, Upload
from optserve._transport.channel import Channel
from optserve._transport.data_channel import DataChannel, NoDataConnection
from optserve._transport.data_connection import host_and_port
from optserve._transport.grpc_channel import GrpcChannel
from optserve._transport.locality import is_local
from optserve._transport.retry import Deadline, Retry, transfer_timeout
from optserve._transport.stubs import Stubs
from optserve._transport.watchdog import Watchdog
from optserve.progress import ProgressOption

T = TypeVar("T")

_log = logging.getLogger("optserve")

NO_DATA_PAUSE_S = 10.0, 640.0
"""How long no data connection is tried after one could not be made: at first, and at most."""


class Closable(Protocol):
    """An object that is closed together with a connection."""

    def close(self) -> None:
        """Closes it; more than once does no harm."""
        ...


class Connection(BaseConnection):
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
        data_connections: whether streams may have connections of their own beside gRPC.

    Attributes:
        target: as given.
        shares_memory: whether sharing memory may succeed, as far as is known.
        data_address: host and port of data connections; None if there are none.
        watchdog: cancels the waits of streams.
        stubs: the server's methods.
    """

    def __init__(
        self,
        target: str,
        timeout: float | None,
        token: str | None,
        credentials: grpc.ChannelCredentials | None,
        retry: Retry | Literal["grpc"] | None,
        progress: ProgressOption,
        shared_memory: bool = True,
        data_connections: bool = True,
    ) -> None:
        super().__init__(target, timeout, token, credentials, retry, progress)
        self.shares_memory = shared_memory and is_local(self.target)
        # Over TLS, the channel's own connection is the only one that is encrypted.
        beside = data_connections and credentials is None
        self.data_address = host_and_port(self.target) if beside else None
        self._data_pause, self._no_data_until = NO_DATA_PAUSE_S[0], 0.0
        self.watchdog = Watchdog()
        weakref.finalize(self, self.watchdog.close)
        self._closables: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._open_channel()
        fork.register_after_fork(self)

    def call(self, call: Call[T], timeout: float | None = None) -> T:
        """Makes a unary call that may be made again.

        Raises:
            OptserveError: it failed.
        """
        method = call.method(self.stubs)
        return call.decode(
            self.run(lambda left: method(call.request, timeout=left, metadata=self.metadata), timeout)
        )

    def call_sequence(self, calls: CallSequence[T], timeout: float | None = None) -> T:
        """Makes calls one after the other.

        Args:
            calls: the calls.
            timeout: seconds for each of them; the default when None.

        Raises:
            OptserveError: one failed.
        """
        try:
            call = next(calls)
            while True:
                call = calls.send(self.call(call, timeout))
        except StopIteration as end:
            result: T = end.value
            return result

    def upload(self, upload: Upload[T], timeout: float | None) -> T:
        """Sends messages, from the first one again after a break.

        Raises:
            OptserveError: the server refused, or could not be reached.
        """
        if timeout is None:
            timeout = transfer_timeout(self.timeout, upload.byte_count)
        method = upload.method(self.stubs)
        return upload.decode(
            self.run(lambda left: method(upload.messages(), timeout=left, metadata=self.metadata), timeout)
        )

    def download(self, download: Download[T]) -> T:
        """Reads an answer of many messages; nothing is kept of a broken one.

        Raises:
            OptserveError: the server refused, or could not be reached.
        """

        def attempt(left: float) -> Any:
            call = download.method(self.stubs)(download.request, timeout=left, metadata=self.metadata)
            try:
                with download.begin() as reception:
                    for message in call:
                        if (result := reception.accept(message)) is not None:
                            return result
                raise errors.Unavailable("the stream ended before its answer")
            finally:
                call.cancel()

        return download.decode(self.run(attempt, download.timeout))

    def pause(self, seconds: float, error: errors.OptserveError) -> None:
        """Waits after a failed attempt.

        With the older poller gRPC makes progress only while a call waits: between calls that fail at once,
        it looks after a connection every five seconds alone. So a health check waits for the connection,
        unless the server answered.
        """
        until = Deadline(seconds)
        if error.reason is None:
            with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed
                check = self.stubs.health.Check
                check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        time.sleep(until.remaining())

    def run(self, attempt: Callable[[float], T], timeout: float | None = None) -> T:
        """Calls ``attempt`` with the seconds left, until it succeeds.

        Raises:
            OptserveError: the last failure.
        """
        deadline, count = Deadline(coercion.to_timeout(self.timeout, timeout)), 0
        while True:
            count += 1
            try:
                return attempt(deadline.remaining())
            except grpc.RpcError as failure:
                error = errors.from_call(failure)
            except errors.Unavailable as unavailable:
                error = unavailable
            seconds = self.retry.compute_pause(count, error, deadline)
            if seconds is None:
                self.add_error_context(error, count, deadline)
                raise error
            self.pause(seconds, error)

    def open_steps(self, plan: bytes) -> Channel:
        """Opens a call of StepStream.

        Args:
            plan: the encoded message with the stream's first plan, which is sent.
        """
        call = GrpcChannel(self.stubs.streams.step, self.metadata)
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
        fork.keep_alive(self.channel, self.stubs)
        self.watchdog.after_fork()
        self._open_channel()

    def _open_channel(self) -> None:
        self.channel = (
            grpc.insecure_channel(self.target, options=self.options)
            if self._credentials is None
            else grpc.secure_channel(self.target, self._credentials, options=self.options)
        )
        self.stubs = Stubs(self.channel)
