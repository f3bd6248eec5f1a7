"""A bidirectional call that is driven by the thread that uses it.

gRPC's public streaming call hands every message from thread to thread: one sends, one polls,
one waits. Its blocking unary calls need none of them, because the calling thread polls a
completion queue of the call's own (``segregated_call``). The call here does the same for a
stream of questions and answers, which a step with nothing else under way is.

This is the only file that knows gRPC's internals. `available` tries them before they are
used; where they are missing or behave otherwise, `optserve.queued_call` does the same over
the public interface.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined]
except ImportError:  # another gRPC than any known today
    cygrpc = None

CODES = {code.value[0]: code for code in grpc.StatusCode}
NO_FLAGS = 0
# What an event belongs to.
STARTED, SENT, ANSWERED, LAST = "started", "sent", "answered", "last"

Metadata = tuple[tuple[str, str | bytes], ...]


class Ended(grpc.RpcError):
    """How a call failed; `optserve.errors.from_call` reads it like gRPC's own.

    Args:
        code: status.
        details: its text.
        metadata: trailing metadata.
    """

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """Its text."""
        return self._details

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]
        """What the server sent with it."""
        return self._metadata


class DirectCall:
    """One bidirectional call; at most one message is on its way up, and one on its way down.

    One thread at a time drives it; `cancel` and `close` may come from any.

    Args:
        channel: to the server, as ``grpc.insecure_channel`` makes it.
        method: full name of the method, ``/package.Service/Method``.
        metadata: sent with the call.
        timeout: seconds after which it is cancelled; None for never.
    """

    def __init__(
        self, channel: grpc.Channel, method: str, metadata: Metadata = (), timeout: float | None = None
    ) -> None:
        self._turn = threading.Lock()
        self._outbox: Iterator[bytes] = iter(())
        self._status: Any = None
        deadline = None if timeout is None else time.time() + timeout
        opening = (
            cygrpc.SendInitialMetadataOperation(metadata, NO_FLAGS),
            cygrpc.ReceiveStatusOnClientOperation(NO_FLAGS),
        )
        headers = (cygrpc.ReceiveInitialMetadataOperation(NO_FLAGS),)
        self._call: Any = channel._channel.segregated_call(  # type: ignore[attr-defined]
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method.encode(),
            None,
            deadline,
            None,
            None,
            ((opening, STARTED), (headers, STARTED)),
        )

    def put(self, messages: Iterable[bytes]) -> None:
        """Sets what the next `receive` is to send first; each is made while the one before it is sent."""
        self._outbox = iter(messages)

    def receive(self) -> bytes | None:
        """Sends what was put, and waits for an answer.

        Returns:
            The answer; None where the call ended well without one.

        Raises:
            grpc.RpcError: the call failed.
        """
        with self._turn:
            last = self._send_all_but_one()
            receive = cygrpc.ReceiveMessageOperation(NO_FLAGS)
            if last is None:
                self._start((receive,), ANSWERED)
            else:
                # One batch, and so one event, for a question and its answer.
                self._start((cygrpc.SendMessageOperation(last, NO_FLAGS), receive), ANSWERED)
            answer: bytes | None = self._await(ANSWERED).batch_operations[-1].message()
            if answer is None:
                self._end()
            return answer

    def ask(self, message: bytes) -> bytes | None:
        """Sends one message, and waits for an answer; for when all that was put is sent.

        The same as `put` and `receive`, whose errors and result it has, in the fewest steps.
        """
        operations = (
            cygrpc.SendMessageOperation(message, NO_FLAGS),
            cygrpc.ReceiveMessageOperation(NO_FLAGS),
        )
        with self._turn:
            if not self._call.operate(operations, ANSWERED):
                raise self._failure()
            event = self._call.next_event()
            if event.tag is not ANSWERED:
                self._note(event)
                event = self._await(ANSWERED)
            answer: bytes | None = event.batch_operations[-1].message()
            if answer is None:
                self._end()
            return answer

    def cancel(self) -> None:
        """Ends the call from any thread; whoever waits for an answer is told."""
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "the client cancelled the call")

    def finish(self) -> None:
        """Says that nothing more will be sent, and waits for the server's end of the call."""
        with self._turn:
            closing = (cygrpc.SendCloseFromClientOperation(NO_FLAGS),)
            if self._status is None and self._call.operate(closing, SENT):
                while self._status is None:
                    self._next()
        self.close()

    def close(self) -> None:
        """Ends the call at once. Until this, gRPC keeps it; more than once does no harm."""
        self.cancel()
        with self._turn:
            # An exception may have come between a beginning and its end, so what is still due
            # is unknown. A batch of no operations ends at once, and is refused when nothing is.
            while self._call.operate((), LAST):
                while self._next().tag is not LAST:
                    pass

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()

    def _send_all_but_one(self) -> bytes | None:
        """Sends the outbox up to its last message, which it returns."""
        outbox, self._outbox = self._outbox, iter(())
        last, sending = None, False
        for message in outbox:
            if sending:
                self._await(SENT)
            if last is not None:
                self._start((cygrpc.SendMessageOperation(last, NO_FLAGS),), SENT)
                sending = True
            last = message
        if sending:
            self._await(SENT)
        return last

    def _start(self, operations: tuple[Any, ...], tag: str) -> None:
        if not self._call.operate(operations, tag):
            raise self._failure()

    def _await(self, tag: str) -> Any:
        while (event := self._next()).tag is not tag:
            pass
        return event

    def _end(self) -> None:
        """Waits for the end of a call that answers no more, and raises it where it is a failure."""
        while self._status is None:
            self._next()
        if self._status.code() != grpc.StatusCode.OK.value[0]:
            raise self._failure()

    def _next(self) -> Any:
        """Waits for what happens next; only called while something is due."""
        event = self._call.next_event()
        self._note(event)
        return event

    def _note(self, event: Any) -> None:
        """Keeps the status, if that is what has come."""
        if event.tag is STARTED:
            for operation in event.batch_operations:
                if operation.type() == cygrpc.OperationType.receive_status_on_client:
                    self._status = operation

    def _failure(self) -> Ended:
        if self._status is None:
            return Ended(grpc.StatusCode.CANCELLED, "the call was interrupted", ())
        code = CODES.get(self._status.code(), grpc.StatusCode.UNKNOWN)
        return Ended(code, self._status.details() or "", tuple(self._status.trailing_metadata() or ()))


@functools.cache
def available() -> bool:
    """Whether this process' gRPC works as `DirectCall` takes it to; tried once, with no server."""
    try:
        with grpc.insecure_channel("unix:/nowhere/optserve") as channel:
            call = DirectCall(channel, "/optserve.Probe/Probe", (("probe", "1"),), timeout=1.0)
            call.cancel()
            call.put([b"is anybody", b"there?"])
            try:
                call.receive()
            except Ended as failure:
                works = failure.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
            else:
                works = False
            call.close()
            return works and not call._call.operate((), LAST)
    except (AttributeError, TypeError, ValueError):
        return False
