"""Codecs of the messages of each method: protobuf, or framing that copies no payload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optserve._codec.framing import Framing
from optserve.v1 import session_service_pb2 as pb

Codec = Callable[[Any], Any]

_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['SessionService'].full_name}/"

_FRAMED: Mapping[str, tuple[Codec | None, Codec | None]] = {
    f"{_SERVICE}PullParameters": (None, Framing(pb.PullParametersResponse).encode),
    f"{_SERVICE}PushParameters": (Framing(pb.PushParametersRequest).decode, None),
    f"{_SERVICE}ExportSnapshot": (None, Framing(pb.ExportSnapshotResponse).encode),
    f"{_SERVICE}ImportSnapshot": (Framing(pb.ImportSnapshotRequest).decode, None),
}
"""Decoders of requests and encoders of responses; None for the generated code."""


def select_codecs(method: str, handler: Any) -> tuple[Codec, Codec]:
    """The decoder of a method's requests and the encoder of its responses.

    Args:
        method: the method's full name.
        handler: its `grpc.RpcMethodHandler`, with the codecs of the generated code.
    """
    decode, encode = _FRAMED.get(method, (None, None))
    return decode or handler.request_deserializer, encode or handler.response_serializer
