"""What happens around every call: who makes it, its end in the log, and the error boundary."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.context import calls
from optserve_server.rpc.context.calls import REQUEST_ID_KEY, Call
from optserve_server.rpc.context.meters import Meters
from optserve_server.rpc.middleware.admission import Admission
from optserve_server.rpc.middleware.request_reading import only, reader, writer
from optserve_server.rpc.middleware.tracing import Tracer, Untraced
from optserve_server.wire.errors import APPLIED_KEY, DETAILS_KEY, PUSHBACK_KEY, code_of, status_of

_OURS = "/optserve.v1."
_HEALTH = "/grpc.health."
_log = logging.getLogger(__name__)

Behaviour = Callable[[Any, Any], Any]


class Boundary(aio.ServerInterceptor):
    """Lets calls in, gives those of this contract their identity, and turns every error into a status.

    Health passes untouched, so that it answers anybody, and while the server drains.

    Args:
        admission: who may come in, and who is in.
        meters: count calls and bytes.
        tracer: traces calls.
    """

    def __init__(self, admission: Admission, meters: Meters, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or Untraced()
        self._admission = admission
        self._meters = meters

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        metadata = handler_call_details.invocation_metadata
        request_id = calls.request_id_from(metadata)
        try:
            call = Call(request_id, method, self._admission.caller(metadata))
            self._admission.check(call)
        except DomainError as error:
            self._log_end(method, error.reason.value, time.perf_counter_ns())
            return _refusing(request_id, error)
        return self._wrapped(handler, call) if method.startswith(_OURS) else handler

    def _wrapped(self, handler: Any, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
        # To gRPC every request is a stream, so that a call is inside before its first byte is
        # read: a caller that sends slowly counts, and can be sent away.
        many_in, many_out = handler.request_streaming, handler.response_streaming
        behaviour: Behaviour = getattr(handler, _kind(many_in, many_out))
        around = self._single
        if many_out:
            around = self._writing if inspect.iscoroutinefunction(behaviour) else self._streaming
        wrapped: grpc.RpcMethodHandler[Any, Any] = getattr(
            grpc, f"{_kind(True, many_out)}_rpc_method_handler"
        )(
            around(behaviour if many_in else _with_one(behaviour, many_out, call), call),
            reader(handler.request_deserializer, call, self._meters, streamed=many_in),
            writer(handler.response_serializer, self._meters),
        )
        return wrapped

    def _single(self, behaviour: Behaviour, call: Call) -> Behaviour:
        async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            async with self._around(call, context):
                return await behaviour(request, context)

        return answer

    def _writing(self, behaviour: Behaviour, call: Call) -> Behaviour:
        """Around what reads its requests and writes its answers itself."""

        async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
            async with self._around(call, context):
                await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                await behaviour(request, context)

        return answer

    def _streaming(self, behaviour: Behaviour, call: Call) -> Behaviour:
        async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self._around(call, context):
                await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                async for response in behaviour(request, context):
                    yield response
                    call.heard = time.monotonic()

        return answer

    @contextlib.asynccontextmanager
    async def _around(self, call: Call, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        calls.current.set(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        started, code = time.perf_counter_ns(), "CANCELLED"
        tracing = contextlib.ExitStack()
        span = tracing.enter_context(self._tracer.call(call, context.invocation_metadata()))
        try:
            with self._admission.inside(call):
                yield
            code = "OK"
        except DomainError as error:
            code = error.reason.value
            await _abort(context, call.request_id, error)
        except asyncio.CancelledError:
            if call.verdict is None or call.task is None:
                raise
            code = call.verdict.reason.value
            call.task.uncancel()
            # What the call had begun may go on to its end.
            call.verdict.metadata.setdefault(APPLIED_KEY, "unknown")
            await _abort(context, call.request_id, call.verdict)
        except aio.InternalError as lost:
            # Writing to a client that is gone fails before gRPC cancels the call.
            raise asyncio.CancelledError from lost
        except MemoryError:
            code = Reason.LIMIT_EXCEEDED.value
            _log.exception("no memory for %s", call.method)
            await _abort(context, call.request_id, _no_memory())
        except Exception:
            code = Reason.INTERNAL.value
            _log.exception("defect in %s", call.method)
            defect = DomainError(Reason.INTERNAL, "a defect, which the server logged")
            await _abort(context, call.request_id, defect)
        finally:
            self._log_end(call.method, code, started)
            span.ended(code)
            tracing.close()

    def _log_end(self, method: str, code: str, started: int) -> None:
        nanoseconds = time.perf_counter_ns() - started
        self._meters.ended(method, code, nanoseconds)
        _log.info("%s", method, extra={"facts": {"code": code, "milliseconds": round(nanoseconds / 1e6, 3)}})


def _kind(many_in: bool, many_out: bool) -> str:
    return ("stream" if many_in else "unary") + ("_stream" if many_out else "_unary")


def _with_one(behaviour: Behaviour, many_out: bool, call: Call) -> Behaviour:
    """Gives a behaviour that takes one request the first of a stream."""

    async def answer(requests: AsyncIterator[Any], context: Any) -> Any:
        request = await only(context)
        call.moves = False
        return await behaviour(request, context)

    async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in behaviour(await only(context), context):
            yield response

    return answers if many_out else answer


def _refusing(request_id: str, error: DomainError) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses a call without reading what it sends."""

    async def refuse(requests: Any, context: aio.ServicerContext[Any, Any]) -> None:
        await _abort(context, request_id, error)

    # Whatever the method's kind is: that of a stream reads nothing before it is asked to.
    return grpc.stream_unary_rpc_method_handler(refuse)


def _no_memory() -> DomainError:
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        "the server has no memory for that now",
        metadata={"limit": "memory", APPLIED_KEY: "unknown"},  # anything may have run out of it
        retry_after=1.0,
    )


async def _abort(context: aio.ServicerContext[Any, Any], request_id: str, error: DomainError) -> None:
    if error.reason is Reason.INTERNAL:
        error.metadata["request_id"] = request_id
    metadata: list[tuple[str, str | bytes]] = [
        (REQUEST_ID_KEY, request_id),
        (DETAILS_KEY, status_of(error).SerializeToString()),
    ]
    if error.retry_after is not None:
        metadata.append((PUSHBACK_KEY, str(round(error.retry_after * 1000))))
    try:
        await context.abort(code_of(error), error.message, tuple(metadata))
    except aio.InternalError as lost:
        # The client left at this very moment, of which gRPC has yet to tell.
        raise asyncio.CancelledError from lost
