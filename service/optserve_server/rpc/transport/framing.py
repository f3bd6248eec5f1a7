"""Streams of bytes go through a codec that copies no payload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc import aio

from optserve._codec.framing import Framing
from optserve.v1 import session_service_pb2 as pb

Codec = Callable[[Any], Any]

CODECS: Mapping[str, tuple[Codec | None, Codec | None]] = {
    "StepStream": (bytes, bytes),  # which reads and writes its messages itself
    "PullParameters": (None, Framing(pb.PullParametersResponse).encode),
    "PushParameters": (Framing(pb.PushParametersRequest).decode, None),
    "ExportSnapshot": (None, Framing(pb.ExportSnapshotResponse).encode),
    "ImportSnapshot": (Framing(pb.ImportSnapshotRequest).decode, None),
}
"""What reads the requests and writes the responses of a method; None for the generated code."""

_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['SessionService'].full_name}/"


class FramedStreams(aio.ServerInterceptor):
    """Gives the handlers of `CODECS` `optserve.framing.Framed` messages in place of generated ones."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Exchanges the codecs of one call's handler."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_SERVICE):
            return handler  # type: ignore[no-any-return]
        codecs = CODECS.get(method.removeprefix(_SERVICE))
        return handler if codecs is None else _exchanged(handler, *codecs)


def _exchanged(handler: Any, decode: Codec | None, encode: Codec | None) -> grpc.RpcMethodHandler[Any, Any]:
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    made: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
        getattr(handler, kind),
        decode or handler.request_deserializer,
        encode or handler.response_serializer,
    )
    return made
