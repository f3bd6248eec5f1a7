"""A channel of steps whose messages go over a data connection beside the gRPC call."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Final

import grpc

from optserve import errors
from optserve._transport.channel import Message, Pieces
from optserve._transport.data_connection import DataConnection, PartialMessage
from optserve._transport.grpc_channel import GrpcChannel
from optserve.v1 import session_service_pb2 as wire

OFFER_REQUEST: Final = wire.StepStreamRequest(
    data_connection=wire.DataConnectionRequest()
).SerializeToString()


class NoDataConnection(errors.Unavailable):
    """No data connection is offered, or it cannot be made; steps go over gRPC.

    Args:
        message: why.
        offered: whether one was offered, so that a later attempt may succeed.
    """

    def __init__(self, message: str, *, offered: bool) -> None:
        super().__init__(message, applied=False)
        self.offered = offered


class DataChannel:
    """A call of StepStream over a data connection, which is made with the first step. See `Channel`.

    The call says how the stream ends. It carries the first plan, its answer, and nothing else.

    Args:
        call: the call.
        plan: the encoded message with the first plan.
        address: host and port that the server was reached at.
    """

    def __init__(self, call: GrpcChannel, plan: bytes, address: tuple[str, int]) -> None:
        self._call, self._address = call, address
        self._outbox: queue.SimpleQueue[Iterable[Pieces] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: DataConnection | None = None
        self._connected = threading.Event()
        self._failure: BaseException | None = None
        self._planned: Message | None = None
        self._cancelled = False
        call.send([(plan,), (OFFER_REQUEST,)])

    def send(self, messages: Iterable[Pieces], idle: bool) -> None:
        """Sends messages from this thread if the channel is idle, else from a thread of its own.

        Raises:
            NoDataConnection: there is none; nothing was sent.
            Unavailable: the connection was lost.
            grpc.RpcError: the call failed.
        """
        if idle:
            connection = self._connection or self._open_connection()
            try:
                connection.send(messages)
            except OSError as lost:
                raise self._connection_lost_error(lost) from lost
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="optserve-send", daemon=True)
            self._thread.start()
        self._outbox.put(messages)

    def receive(self) -> Message | None:
        """Waits for a message; None if the call ended without an error.

        Raises:
            NoDataConnection, Unavailable, grpc.RpcError: as for `send`.
        """
        if self._connection is None:
            self._connected.wait()
        if self._failure is not None:
            raise self._failure
        if self._planned is not None:
            planned, self._planned = self._planned, None
            return planned
        assert self._connection is not None
        try:
            message = self._connection.receive()
        except OSError as lost:
            raise self._connection_lost_error(lost) from lost
        if message is None:
            self._check_end()
        if isinstance(message, PartialMessage):
            message.receive_rest = self._convert_receive_errors(message.receive_rest)
        return message

    def cancel(self) -> None:
        """Ends the call at once; waits raise."""
        self._cancelled = True
        self._call.cancel()
        self._outbox.put(None)
        if self._connection is not None:
            self._connection.interrupt()

    def finish(self) -> None:
        """Half-closes call and connection, and waits a moment for the server to do the same."""
        if self._thread is not None:
            self._outbox.put(None)
            self._thread.join()
        self._call.half_close()
        if self._connection is not None:
            self._connection.finish()
            self._connection.close()
        self._call.finish()

    def detach_in_child(self) -> None:
        """Closes the socket in a forked child; the connection is the parent's."""
        self._call.detach_in_child()
        if self._connection is not None:
            self._connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_cancelled"):
            self.cancel()
            if self._connection is not None:
                self._connection.close()

    def _open_connection(self) -> DataConnection:
        """Makes the connection, or notes why there is none."""
        try:
            self._planned = self._call.receive()
            self._connection = connection = self._open_offered()
            if self._cancelled:
                connection.interrupt()
        except BaseException as failure:
            self._failure = failure
            raise
        finally:
            self._connected.set()
        return connection

    def _open_offered(self) -> DataConnection:
        host, port = self._address
        answer = self._receive_from_call()
        offer = wire.StepStreamResponse.FromString(answer or b"").data_connection
        if not offer.port or offer.server_port != port:
            why = "the server offers none" if not offer.port else "the server's port was mapped"
            raise NoDataConnection(why, offered=False)
        try:
            connection = DataConnection(host, offer)
        except OSError as error:
            raise NoDataConnection(str(error), offered=True) from error
        request = wire.DataConnectionRequest(ticket=offer.ticket)
        self._call.send([(wire.StepStreamRequest(data_connection=request).SerializeToString(),)])
        return connection

    def _receive_from_call(self) -> bytes | None:
        try:
            return self._call.receive()
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
            if error.reason is errors.Reason.STREAM_PROTOCOL:  # a server without this level
                raise NoDataConnection("the server has no data connections", offered=False) from error
            raise

    def _send_all(self) -> None:
        """Sends what is put into the outbox; the receiving thread learns of a failure."""
        try:
            connection = self._connection or self._open_connection()
            for messages in iter(self._outbox.get, None):
                connection.send(messages)
        except BaseException:
            if self._connection is not None:
                self._connection.interrupt()

    def _convert_receive_errors(self, rest: Callable[[memoryview], None]) -> Callable[[memoryview], None]:
        """Receives the rest of a long answer with the errors of its beginning."""

        def receive(place: memoryview) -> None:
            try:
                rest(place)
            except OSError as lost:
                raise self._connection_lost_error(lost) from lost

        return receive

    def _connection_lost_error(self, lost: OSError) -> errors.OptserveError:
        """Returns what a lost connection means; a cancelled call has ended it itself."""
        if self._cancelled:
            return errors.Cancelled("the call was cancelled")
        return errors.Unavailable(f"the data connection was lost: {lost}")

    def _check_end(self) -> None:
        """Raises what the call says of its end, unless it ended well."""
        try:
            message = self._call.receive()
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
            if error.reason is errors.Reason.STREAM_TRUNCATED:  # of bytes that were sent all the same
                raise errors.Unavailable("the data connection was lost") from error
            raise
        if message is not None:
            raise errors.Internal("an answer came over the call, which has a data connection")
