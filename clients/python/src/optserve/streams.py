"""The service's streams of bytes."""

from __future__ import annotations

from typing import Any

import grpc

from optserve.framing import Framing
from optserve.v1 import session_service_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["SessionService"].full_name
STEP_STREAM = f"/{SERVICE}/StepStream"


class Streams:
    """The three streaming methods.

    Gradients and parameters go up as encoded messages. Steps are answered with such; the others
    with generated ones, and pulled parameters with `optserve.framing.Framed`.

    Args:
        channel: to the server.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.step: Any = channel.stream_stream(STEP_STREAM)
        self.pull: Any = channel.unary_stream(
            f"/{SERVICE}/PullParameters",
            request_serializer=wire.PullParametersRequest.SerializeToString,
            response_deserializer=Framing(wire.PullParametersResponse).decode,
        )
        self.push: Any = channel.stream_unary(
            f"/{SERVICE}/PushParameters",
            response_deserializer=wire.PushParametersResponse.FromString,
        )
