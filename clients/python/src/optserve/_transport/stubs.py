"""Callables of a server's methods, on a channel with threads or with coroutines."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]

from optserve._codec.framing import Framing
from optserve.v1 import (
    capabilities_service_pb2_grpc,
    function_service_pb2_grpc,
    session_service_pb2_grpc,
    worker_service_pb2_grpc,
)
from optserve.v1 import session_service_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["SessionService"].full_name
STEP_STREAM = f"/{SERVICE}/StepStream"


class Stubs:
    """The generated stubs, and the callables of the streaming methods.

    Args:
        channel: a ``grpc.Channel`` or a ``grpc.aio.Channel``, whose kind the callables have.
    """

    def __init__(self, channel: Any) -> None:
        self.health = health_pb2_grpc.HealthStub(channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.functions = function_service_pb2_grpc.FunctionServiceStub(channel)
        self.capabilities = capabilities_service_pb2_grpc.CapabilitiesServiceStub(channel)
        self.streams = StreamMethods(channel)


class StreamMethods:
    """Callables of the streaming methods.

    Requests that carry chunks are encoded messages. Steps are answered with encoded messages, and
    other methods with `Framed` or generated ones.

    Args:
        channel: as of `Stubs`.
    """

    def __init__(self, channel: Any) -> None:
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
