"""A call of StepStream whose messages go over a data connection."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import grpc

from optserve import errors
from optserve.data_connection import DataConnection
from optserve.framing import Encoded
from optserve.queued_call import QueuedCall
from optserve.v1 import session_service_pb2 as wire

ASKED: Final = wire.StepStreamRequest(data_connection=wire.DataConnectionRequest()).SerializeToString()


class NoDataConnection(errors.Unavailable):
    """The server offers no data connection, or it cannot be made; steps go over gRPC."""


class DataCall:
    """Like `optserve.direct_call.DirectCall`: one thread at a time drives it, `cancel` may come from any.

    The call itself says how the stream ends, and carries nothing else. Connection and call are made
    when they are first needed.

    Args:
        control: the call.
        host: that the server was reached at.
        port: likewise.
    """

    def __init__(self, control: QueuedCall, host: str, port: int) -> None:
        self._control, self._host, self._port = control, host, port
        self._turn = threading.Lock()
        self._connection: DataConnection | None = None
        self._outbox: Iterable[bytes] = ()
        self._cancelled = False

    def put(self, messages: Iterable[bytes]) -> None:
        """Sets what the next `receive` is to send first; each is made when the one before it is sent."""
        self._outbox = messages

    def receive(self) -> Encoded | None:
        """Sends what was put, and waits for an answer.

        Returns:
            The answer, good until the next is received; None where the call ended well without one.

        Raises:
            NoDataConnection: there is none; nothing was sent.
            Unavailable: the connection was lost.
            grpc.RpcError: the call failed.
        """
        with self._turn:
            connection = self._connection or self._connect()
            outbox, self._outbox = self._outbox, ()
            return self._exchange(connection, outbox)

    def ask(self, message: bytes) -> Encoded | None:
        """Sends one message, and waits for an answer: `put` and `receive`, once there was an answer."""
        with self._turn:
            assert self._connection is not None  # there was an answer
            return self._exchange(self._connection, (message,))

    def cancel(self) -> None:
        """Ends the call from any thread; whoever waits for an answer is told."""
        self._cancelled = True
        self._control.cancel()
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def finish(self) -> None:
        """Says that nothing more will be sent, and waits for the server's end of the call."""
        self._control.finish()
        with self._turn:
            if self._connection is not None:
                self._connection.finish()
        self.close()

    def close(self) -> None:
        """Ends the call at once; more than once does no harm."""
        self.cancel()
        self._control.close()
        with self._turn:
            if self._connection is not None:
                self._connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_cancelled"):
            self.close()

    def _exchange(self, connection: DataConnection, messages: Iterable[bytes]) -> bytearray | None:
        try:
            connection.send(messages)
            answer = connection.receive()
        except OSError as lost:
            raise errors.Unavailable(f"the data connection was lost: {lost}") from lost
        if answer is None:
            self._ended()
        return answer

    def _ended(self) -> None:
        """Raises what the call says of its end, unless it is a good one."""
        try:
            answer = self._control.receive()
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
            if error.reason is errors.Reason.STREAM_TRUNCATED:  # of bytes that were sent all the same
                raise errors.Unavailable("the data connection was lost") from error
            raise
        if answer is not None:
            raise errors.Internal("an answer came over the call, which has a data connection")

    def _offer(self) -> wire.DataConnectionOffer:
        self._control.put((ASKED,))
        try:
            answer = self._control.receive()
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
            if error.reason is errors.Reason.STREAM_PROTOCOL:  # of a server that knows no such request
                raise NoDataConnection("the server knows none") from error
            raise
        return wire.StepStreamResponse.FromString(answer or b"").data_connection

    def _connect(self) -> DataConnection:
        offer = self._offer()
        if not offer.port or offer.server_port != self._port:
            raise NoDataConnection("the server offers none")
        try:
            connection = DataConnection(self._host, offer)
        except OSError as error:
            raise NoDataConnection(str(error)) from error
        request = wire.DataConnectionRequest(ticket=offer.ticket)
        self._control.put((wire.StepStreamRequest(data_connection=request).SerializeToString(),))
        self._connection = connection
        if self._cancelled:
            connection.interrupt()
        return connection
