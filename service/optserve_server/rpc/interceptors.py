"""What happens around every call: its identity, its end in the log, and the error boundary."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from optserve_server.errors import DomainError, Reason
from optserve_server.rpc import calls
from optserve_server.rpc.calls import REQUEST_ID_KEY, Call
from optserve_server.rpc.drain import Drain
from optserve_server.wire.errors import DETAILS_KEY, code_of, status_of

_OURS = "/optserve.v1."
_log = logging.getLogger(__name__)

Behaviour = Callable[[Any, Any], Any]


class Boundary(aio.ServerInterceptor):
    """Gives each call of this contract its identity, and turns every error into a status.

    Health and reflection pass untouched, so that they answer while the server drains.

    Args:
        drain: counts the calls.
    """

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler
        request_id = calls.request_id_from(handler_call_details.invocation_metadata)
        return self._wrapped(handler, Call(request_id, handler_call_details.method))

    def _wrapped(self, handler: Any, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        behaviour: Behaviour = getattr(handler, kind)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        around = self._single
        if handler.response_streaming:
            around = self._writing if inspect.iscoroutinefunction(behaviour) else self._streaming
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            around(behaviour, call), handler.request_deserializer, handler.response_serializer
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

        return answer

    @contextlib.asynccontextmanager
    async def _around(self, call: Call, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        calls.current.set(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        started, code = time.perf_counter(), "CANCELLED"
        try:
            with self._drain.call():
                yield
            code = "OK"
        except DomainError as error:
            code = error.reason.value
            await _abort(context, call, error)
        except Exception:
            code = Reason.INTERNAL.value
            _log.exception("defect in %s", call.method)
            await _abort(context, call, DomainError(Reason.INTERNAL, "a defect, which the server logged"))
        finally:
            milliseconds = round((time.perf_counter() - started) * 1e3, 3)
            _log.info("%s", call.method, extra={"facts": {"code": code, "milliseconds": milliseconds}})


async def _abort(context: aio.ServicerContext[Any, Any], call: Call, error: DomainError) -> None:
    if error.reason is Reason.INTERNAL:
        error.metadata["request_id"] = call.request_id
    metadata = ((REQUEST_ID_KEY, call.request_id), (DETAILS_KEY, status_of(error).SerializeToString()))
    await context.abort(code_of(error), error.message, metadata)
