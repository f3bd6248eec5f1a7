"""Calls of StepStream whose messages go over a data connection.

The call itself says how the stream ends, and carries nothing else. Call and connection are made
when they are first needed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import grpc

from optserve import errors
from optserve._engine.results import StepMessages
from optserve._transport.data_connection import Arriving, DataConnection, Message
from optserve._transport.grpc_channel import QueuedCall
from optserve.v1 import session_service_pb2 as wire

ASKED: Final = wire.StepStreamRequest(data_connection=wire.DataConnectionRequest()).SerializeToString()


class NoDataConnection(errors.Unavailable):
    """The server offers no data connection, or it cannot be made; steps go over gRPC.

    Attributes:
        offered: whether one was offered, so that it may be made some other time.
    """

    offered = False


class NotReached(NoDataConnection):
    """A data connection was offered and could not be made."""

    offered = True


class DataCall:
    """Like `optserve.direct_call.DirectCall`: one thread at a time drives it, `cancel` may come from any.

    Args:
        control: the call.
        address: host and port that the server was reached at.
    """

    def __init__(self, control: QueuedCall, address: tuple[str, int]) -> None:
        self._control, self._address = control, address
        self._turn = threading.Lock()
        self._connection: DataConnection | None = None
        self._outbox: Iterable[Sequence[Any]] = ()
        self._cancelled = False

    def put(self, messages: StepMessages) -> None:
        """Sets what the next `receive` is to send first; each is made when the one before it is sent."""
        self._outbox = messages.pieces()

    def receive(self) -> Message | None:
        """Sends what was put, and waits for an answer.

        Returns:
            The answer, good until the next is received; None where the call ended well without one.

        Raises:
            NoDataConnection: there is none; nothing was sent.
            Unavailable: the connection was lost.
            grpc.RpcError: the call failed.
        """
        with self._turn:
            if self._connection is None:
                self._connection = _connect(self._control, self._address)
                if self._cancelled:
                    self._connection.interrupt()
            outbox, self._outbox = self._outbox, ()
            return self._exchange(self._connection, outbox)

    def ask(self, message: bytes) -> Message | None:
        """Sends one message, and waits for an answer: `put` and `receive`, once there was an answer."""
        with self._turn:
            assert self._connection is not None  # there was an answer
            return self._exchange(self._connection, ((message,),))

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

    def _exchange(self, connection: DataConnection, messages: Iterable[Sequence[Any]]) -> Message | None:
        def exchanged() -> Message | None:
            connection.send(messages)
            return connection.receive()

        return _answer(self, exchanged)


class QueuedDataCall:
    """Like `optserve.queued_call.QueuedCall`: what is put into it is sent in the background.

    Args:
        control: the call.
        address: host and port that the server was reached at.
    """

    def __init__(self, control: QueuedCall, address: tuple[str, int]) -> None:
        self._control = control
        self._outbox: queue.SimpleQueue[StepMessages | None] = queue.SimpleQueue()
        self._connected: Future[DataConnection] = Future()
        self._turn = threading.Lock()
        self._cancelled = False
        sending = (self._connected, self._outbox, self._turn, control, address)
        self._thread = threading.Thread(target=_send_all, args=sending, name="optserve-send", daemon=True)
        self._thread.start()

    def put(self, messages: StepMessages) -> None:
        """Sends messages after those before them; they are made while they are sent."""
        self._outbox.put(messages)

    def receive(self) -> Message | None:
        """Waits for an answer; result and errors are those of `DataCall.receive`."""
        connection = self._connected.result()

        def received() -> Message | None:
            with self._turn:
                return connection.receive()

        return _answer(self, received)

    def cancel(self) -> None:
        """Ends the call from any thread."""
        self._cancelled = True
        self._control.cancel()
        self._outbox.put(None)
        self._connected.add_done_callback(_interrupt)

    def finish(self) -> None:
        """Says that nothing more will be sent."""
        self._outbox.put(None)

    def close(self) -> None:
        """Ends the call at once, and the thread that sends."""
        self.cancel()
        self._control.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()


def _answer(call: DataCall | QueuedDataCall, received: Callable[[], Message | None]) -> Message | None:
    """What is received for a call, or what it means that nothing is.

    The rest of a long answer is received like its beginning: in turn, and with the same errors.
    """
    try:
        answer = received()
    except OSError as lost:
        raise _failure(lost, call._control, call._cancelled) from lost
    if answer is None:
        _check_end(call._control)
    if isinstance(answer, Arriving):
        rest = answer.rest

        def received_rest(place: memoryview) -> None:
            try:
                with call._turn:  # else who ends the call would take bytes out of the middle
                    rest(place)
            except OSError as lost:
                raise _failure(lost, call._control, call._cancelled) from lost

        answer.rest = received_rest
    return answer


def _send_all(
    connected: Future[DataConnection],
    outbox: queue.SimpleQueue[StepMessages | None],
    turn: threading.Lock,
    control: QueuedCall,
    address: tuple[str, int],
) -> None:
    """Makes the connection, sends what is put, and closes it when its peer has."""
    try:
        connection = _connect(control, address)
    except BaseException as error:
        connected.set_exception(error)
        return
    connected.set_result(connection)
    try:
        for messages in iter(outbox.get, None):
            connection.send(messages.pieces())
    except BaseException:
        connection.interrupt()  # whoever waits for answers hears of it
    control.finish()
    with turn:
        connection.finish()
        connection.close()


def _interrupt(connected: Future[DataConnection]) -> None:
    if connected.exception() is None:
        connected.result().interrupt()


def _connect(control: QueuedCall, address: tuple[str, int]) -> DataConnection:
    """Makes the data connection of a call.

    Raises:
        NoDataConnection: there is to be none.
        grpc.RpcError: the call failed.
    """
    host, port = address
    offer = _offer(control)
    if not offer.port or offer.server_port != port:
        raise NoDataConnection("the server offers none" if not offer.port else "a port was mapped")
    try:
        connection = DataConnection(host, offer)
    except OSError as error:
        raise NotReached(str(error)) from error
    request = wire.DataConnectionRequest(ticket=offer.ticket)
    control.put((wire.StepStreamRequest(data_connection=request).SerializeToString(),))
    return connection


def _offer(control: QueuedCall) -> wire.DataConnectionOffer:
    control.put((ASKED,))
    try:
        answer = control.receive()
    except grpc.RpcError as failure:
        error = errors.from_call(failure)
        if error.reason is errors.Reason.STREAM_PROTOCOL:  # of a server that knows no such request
            raise NoDataConnection("the server knows none") from error
        raise
    return wire.StepStreamResponse.FromString(answer or b"").data_connection


def _check_end(control: QueuedCall) -> None:
    """Raises what a call says of its end, unless it is a good one."""
    try:
        answer = control.receive()
    except grpc.RpcError as failure:
        error = errors.from_call(failure)
        if error.reason is errors.Reason.STREAM_TRUNCATED:  # of bytes that were sent all the same
            raise errors.Unavailable("the data connection was lost") from error
        raise
    if answer is not None:
        raise errors.Internal("an answer came over the call, which has a data connection")


def _failure(lost: OSError, control: QueuedCall, cancelled: bool) -> Exception:
    """What a lost connection means: a cancelled call has ended it itself."""
    if cancelled:
        try:
            _check_end(control)
        except (grpc.RpcError, errors.OptserveError) as error:
            return error
    return errors.Unavailable(f"the data connection was lost: {lost}")
