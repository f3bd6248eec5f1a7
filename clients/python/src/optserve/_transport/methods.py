"""The service's streaming methods."""

from __future__ import annotations

from typing import Any

import grpc

from optserve._codec.framing import Framing
from optserve.v1 import session_service_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["SessionService"].full_name
STEP_STREAM = f"/{SERVICE}/StepStream"


class StreamMethods:
    """Callables of the streaming methods.

    Requests that carry chunks are encoded messages. Steps are answered with encoded messages, and
    other methods with `Framed` or generated ones.

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
        self.export: Any = channel.unary_stream(
            f"/{SERVICE}/ExportSnapshot",
            request_serializer=wire.ExportSnapshotRequest.SerializeToString,
            response_deserializer=Framing(wire.ExportSnapshotResponse).decode,
        )
        self.import_: Any = channel.stream_unary(
            f"/{SERVICE}/ImportSnapshot",
            response_deserializer=wire.ImportSnapshotResponse.FromString,
        )
