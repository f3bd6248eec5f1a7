"""The service's streams of bytes, called with `optserve.framing.Framed` messages."""

from __future__ import annotations

from typing import Any

import grpc

from optserve.framing import Framing
from optserve.v1 import session_service_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["SessionService"].full_name


class Streams:
    """The three streaming methods.

    Args:
        channel: to the server.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.step: Any = channel.stream_stream(
            f"/{SERVICE}/StepStream",
            request_serializer=Framing(wire.StepStreamRequest).encode,
            response_deserializer=Framing(wire.StepStreamResponse).decode,
        )
        self.pull: Any = channel.unary_stream(
            f"/{SERVICE}/PullParameters",
            request_serializer=wire.PullParametersRequest.SerializeToString,
            response_deserializer=Framing(wire.PullParametersResponse).decode,
        )
        self.push: Any = channel.stream_unary(
            f"/{SERVICE}/PushParameters",
            request_serializer=Framing(wire.PushParametersRequest).encode,
            response_deserializer=wire.PushParametersResponse.FromString,
        )
