"""Interceptor of every call: admission, codecs, metrics, logs, traces and errors."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from optserve._codec.framing import Encoded, Framing
from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Charge, Kind
from optserve_server.resources.fair_queue import Flow
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.calls import REQUEST_ID_KEY, Call
from optserve_server.rpc.context.loop_turns import LoopTurns
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.middleware.admission import Admission
from optserve_server.rpc.middleware.log_limiter import LogLimiter
from optserve_server.rpc.middleware.message_codecs import Codec, select_codecs
from optserve_server.wire.errors import (
    APPLIED_KEY,
    DETAILS_KEY,
    PUSHBACK_KEY,
    error_status,
    error_status_code,
)
from optserve_server.wire.fields.field_count import check_field_count

COPIES_PER_UNARY_REQUEST = 2
"""Copies of a unary request in memory: its bytes, and the decoded message."""

LONG_REQUEST_BYTES = 256 << 10
"""Bytes above which parsing a request takes too long for the event loop."""

UNREADABLE = "the message's bytes cannot be read"
"""Message of the error of bytes that no message of the contract has."""

MAX_HEALTH_REQUEST_BYTES = 4096
"""Bytes of a health check's request, which is the name of a service."""

_HEALTH = "/grpc.health."
_log = logging.getLogger(__name__)

_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,128}")

_PROCESS_ID, _numbers = secrets.token_hex(6), itertools.count(1)
"""Parts of the ids that the server chooses."""

Context = aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Any], Any]
Enter = Callable[[Call, object], None]
"""Admits a call, given its metadata."""


class Tracer(Protocol):
    """Traces calls."""

    def record_call(self, call: Call, metadata: object, nanoseconds: int) -> None:
        """Records a call that has just ended.

        Args:
            call: the call.
            metadata: its invocation metadata, which may name the client's trace.
            nanoseconds: its duration.
        """


class CallInterceptor(aio.ServerInterceptor):
    """Admits each call, decodes and encodes its messages, and turns every error into a status.

    To gRPC every request is a stream of bytes, so that a call is admitted and counted before its
    first byte is read. Health checks need no token, have slots of their own, and are answered while
    the server drains.

    Args:
        admission: admits calls.
        meters: count calls and bytes.
        turns: of the event loop.
        tracer: traces calls; None to trace none.
        max_tensors: elements of one field of a request; 0 for no limit.
        on_cancelled: called with the peer and the age in seconds of each call that its client has cancelled.
    """

    def __init__(
        self,
        admission: Admission,
        meters: Meters,
        turns: LoopTurns,
        tracer: Tracer | None = None,
        max_tensors: int = 0,
        on_cancelled: Callable[[str, float], None] | None = None,
    ) -> None:
        self._on_cancelled, self._turns = on_cancelled, turns
        self._admission, self._meters, self._tracer = admission, meters, tracer
        self._max_tensors = max_tensors
        self._log_limiter = LogLimiter()
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the wrapped handler of a method, or None if there is no such method."""
        method: str = handler_call_details.method
        wrapped = self._handlers.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            # Only methods that exist are stored: a client chooses the name.
            wrapped = self._handlers[method] = self._wrap_handler(handler, method)
        return wrapped

    def _wrap_handler(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        many_in, many_out = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if many_in else 'unary'}_{'stream' if many_out else 'unary'}"
        behaviour: Behaviour = getattr(handler, kind)
        decode, encode = select_codecs(method, handler)
        enter = self._admission.enter_health if method.startswith(_HEALTH) else self._admission.enter
        if many_out:
            stream = self._stream(method, enter, behaviour, decode, encode, many_in=many_in)
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.stream_unary_rpc_method_handler(
            self._single(method, enter, behaviour, decode, encode, many_in=many_in)
        )

    def _single(
        self, method: str, enter: Enter, behaviour: Behaviour, decode: Codec, encode: Codec, *, many_in: bool
    ) -> Behaviour:
        """A handler that returns one response."""
        meters = self._meters

        async def answer(_: object, context: Context) -> bytes:
            call = self._begin_call(method, context)
            try:
                enter(call, context.invocation_metadata())
                if many_in:
                    request = self._decode_requests(call, context, decode)
                else:
                    request = await self._receive_only(call, context, decode)
                    call.moves = False
                response = await self._encode_response(call, encode, await behaviour(request, context))
                meters.bytes_sent += len(response)
                call.code = "OK"
                return response
            except BaseException as error:
                await self._abort_call(call, context, error)
                raise
            finally:
                self._end_call(call, context, logging.DEBUG)

        return answer

    def _stream(
        self, method: str, enter: Enter, behaviour: Behaviour, decode: Codec, encode: Codec, *, many_in: bool
    ) -> Behaviour:
        """A handler that writes responses: those that a behaviour yields, unless it writes them itself."""
        yields = inspect.isasyncgenfunction(behaviour)

        async def answer(_: object, context: Context) -> None:
            call = self._begin_call(method, context)
            try:
                enter(call, context.invocation_metadata())
                await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                if not yields:
                    await behaviour(context, context)
                else:
                    if many_in:
                        request = self._decode_requests(call, context, decode)
                    else:
                        request = await self._receive_only(call, context, decode)
                    await self._write_responses(call, context, behaviour(request, context), encode)
                call.code = "OK"
            except BaseException as error:
                await self._abort_call(call, context, error)
                raise
            finally:
                self._end_call(call, context, logging.INFO)

        return answer

    async def _write_responses(
        self, call: Call, context: Context, responses: AsyncIterator[Any], encode: Codec
    ) -> None:
        async for response in responses:
            data = await self._encode_response(call, encode, response)
            await context.write(data)
            self._meters.bytes_sent += len(data)
            call.heard = time.monotonic()

    @staticmethod
    async def _encode_response(call: Call, encode: Codec, response: Any) -> bytes:
        if call.is_answer_long:
            return await asyncio.to_thread(encode, response)
        return encode(response)  # type: ignore[no-any-return]

    def _begin_call(self, method: str, context: Context) -> Call:
        call = Call(_request_id_from(context.invocation_metadata()), method)
        calls.current.set(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        return call

    async def _decode_requests(self, call: Call, context: Context, decode: Codec) -> AsyncIterator[Any]:
        """The decoded requests of a stream."""
        while (data := await context.read()) is not aio.EOF:
            call.heard = time.monotonic()
            self._meters.bytes_received += len(data)
            assert call.caller is not None  # no method of the health service has such requests
            if self._turns.alone is not call.caller.namespace.budget:
                await self._wait_for_turn(call.caller.namespace.budget, len(data))
            yield await parse_framed(data, decode, self._max_tensors)

    async def _receive_only(self, call: Call, context: Context, decode: Codec) -> Any:
        """Receives the only request of a call; its bytes count as in flight until the call ends."""
        call.arriving = True
        data = await context.read()
        call.arriving = False
        if data is aio.EOF:
            raise DomainError(Reason.MALFORMED_MESSAGE, "the call came without its request")
        self._meters.bytes_received += len(data)
        if call.caller is not None:  # a health check has no namespace that it could count against
            budget = call.caller.namespace.budget
            call.charge = Charge(budget, Kind.IN_FLIGHT, COPIES_PER_UNARY_REQUEST * len(data))
            if self._turns.alone is not budget:
                await self._wait_for_turn(budget, len(data))
        elif len(data) > MAX_HEALTH_REQUEST_BYTES:
            raise _health_request_error(len(data))
        if len(data) > LONG_REQUEST_BYTES:
            return await asyncio.to_thread(_parse_long, data, decode, self._max_tensors)
        return parse_message(data, decode)

    async def _wait_for_turn(self, flow: Flow, byte_count: int) -> None:
        turn = self._turns.take(flow, byte_count)
        if turn is not None:
            await turn

    async def _abort_call(self, call: Call, context: Context, error: BaseException) -> None:
        """Ends a call by the status of an error; returns if gRPC ends the call itself."""
        # The status waits for a client that does not read; what was being sent is released before.
        traceback.clear_frames(error.__traceback__)
        self._admission.release_call(call)
        if isinstance(error, asyncio.CancelledError):
            if call.verdict is None or call.task is None:
                return
            call.task.uncancel()
            # What the call had begun may go on to its end.
            call.verdict.metadata.setdefault(APPLIED_KEY, "unknown")
            error = call.verdict
        elif isinstance(error, aio.InternalError):
            # Writing to a client that is gone fails before gRPC cancels the call.
            raise asyncio.CancelledError from error
        elif isinstance(error, aio.AbortError):
            call.code = "ABORTED"  # a handler of gRPC's own has ended the call with its status
            return
        elif isinstance(error, MemoryError):
            _log.exception("no memory for %s", call.method)
            error = _out_of_memory_error()
        elif not isinstance(error, DomainError):
            if not isinstance(error, Exception):
                return
            _log.exception("defect in %s", call.method)
            error = DomainError(Reason.INTERNAL, "a defect, which the server logged")
        if error.reason is Reason.INTERNAL:
            error.metadata["request_id"] = call.request_id
        call.code = error.reason.value
        await _abort_with_details(context, call.request_id, error)

    def _end_call(self, call: Call, context: Context, level: int) -> None:
        """Counts and logs the end of a call; ``level`` is that of a success."""
        call.has_ended = True
        self._admission.release_call(call)
        nanoseconds = time.perf_counter_ns() - call.begun
        self._meters.end_call(call.method, call.code, nanoseconds)
        if call.code == "CANCELLED" and self._on_cancelled is not None:
            self._on_cancelled(context.peer(), nanoseconds / 1e9)
        if self._tracer is not None:
            self._tracer.record_call(call, context.invocation_metadata(), nanoseconds)
        level = level if call.code == "OK" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        suppressed = 0 if call.code == "OK" else self._log_limiter.admit(call.code)
        if suppressed is not None:
            facts = {"code": call.code, "milliseconds": round(nanoseconds / 1e6, 3)}
            if call.caller is None:
                facts["peer"] = context.peer()
            if suppressed:
                facts["suppressed"] = suppressed
            _log.log(level, "%s", call.method, extra={"facts": facts})


def _request_id_from(metadata: object) -> str:
    """Returns the request id of a call's metadata, or a new one if it has no valid one."""
    for key, value in metadata or ():  # type: ignore[attr-defined]  # grpc leaves its type open
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTABLE.fullmatch(value):
            return value
    return f"{_PROCESS_ID}-{next(_numbers):x}"


async def parse_framed(data: Encoded, decode: Codec, max_tensors: int) -> Any:
    """A message of a stream; one that takes long to decode, which a chunk does not, is decoded in a thread.

    Raises:
        DomainError: MALFORMED_MESSAGE or LIMIT_EXCEEDED.
    """
    framing = getattr(decode, "__self__", None)
    is_long = (
        len(data) > LONG_REQUEST_BYTES
        and isinstance(framing, Framing)
        and parse_message(data, framing.head_byte_count) > LONG_REQUEST_BYTES
    )
    if is_long:
        return await asyncio.to_thread(_parse_long, bytes(data), decode, max_tensors)
    return parse_message(data, decode)


def _parse_long(data: bytes, decode: Codec, max_tensors: int) -> Any:
    # The class of generated code, or a framing.
    owner = getattr(decode, "__self__", None)
    descriptor: Any = owner.descriptor if isinstance(owner, Framing) else getattr(owner, "DESCRIPTOR", None)
    if descriptor is not None:
        check_field_count(data, descriptor, max_tensors)
    return parse_message(data, decode)


def parse_message(data: Encoded, decode: Codec) -> Any:
    """A message.

    Raises:
        DomainError: MALFORMED_MESSAGE.
    """
    try:
        return decode(data)
    except (DecodeError, ValueError) as error:
        raise DomainError(Reason.MALFORMED_MESSAGE, UNREADABLE) from error


def _health_request_error(byte_count: int) -> DomainError:
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        f"a health check of {byte_count} bytes exceeds {MAX_HEALTH_REQUEST_BYTES}",
        field="service",
        metadata={"limit": "health_request_bytes", "value": MAX_HEALTH_REQUEST_BYTES},
    )


def _out_of_memory_error() -> DomainError:
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        "the server has no memory for that now",
        metadata={"limit": "memory", APPLIED_KEY: "unknown"},  # anything may have run out of it
        retry_after=1.0,
    )


async def _abort_with_details(context: Context, request_id: str, error: DomainError) -> None:
    metadata: list[tuple[str, str | bytes]] = [
        (REQUEST_ID_KEY, request_id),
        (DETAILS_KEY, error_status(error).SerializeToString()),
    ]
    if error.retry_after is not None:
        metadata.append((PUSHBACK_KEY, str(round(error.retry_after * 1000))))
    try:
        await context.abort(error_status_code(error), error.message, tuple(metadata))
    except aio.InternalError as lost:
        # The client left at this very moment, of which gRPC has yet to tell.
        raise asyncio.CancelledError from lost
