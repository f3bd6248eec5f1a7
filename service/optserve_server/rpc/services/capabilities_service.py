"""CapabilitiesService: algorithms, limits and features of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from grpc import aio

from optserve.v1 import capabilities_service_pb2 as pb
from optserve.v1.capabilities_service_pb2_grpc import CapabilitiesServiceServicer
from optserve.v1.error_reason_pb2 import ErrorReason
from optserve_server import __version__
from optserve_server.arrays.backend import Backend
from optserve_server.errors import Reason
from optserve_server.sessions.store import Limits
from optserve_server.wire.fields.tensors import NUMBERS, PARAMETER_DTYPES, WIRE_DTYPES
from optserve_server.wire.specifications.capabilities import algorithms_to, limits_to


class CapabilitiesService(CapabilitiesServiceServicer):
    """Describes the server.

    Args:
        backend: the executor of kernels.
        limits: the server's limits.
        features: returns the names of what the server offers beyond the core of the contract; called
            for each request, because listeners start after the service is made.
    """

    def __init__(self, backend: Backend, limits: Limits, features: Callable[[], Iterable[str]]) -> None:
        self._features = features
        self._answer = pb.GetCapabilitiesResponse(
            server_version=__version__,
            api_version="optserve.v1",
            backend=backend.name,
            device=backend.device,
            algorithms=algorithms_to(),
            parameter_dtypes=[NUMBERS[dtype] for dtype in PARAMETER_DTYPES],
            wire_dtypes=[NUMBERS[dtype] for dtype in WIRE_DTYPES],
            limits=limits_to(limits),
            error_reasons=[ErrorReason.Value(f"ERROR_REASON_{reason.value}") for reason in Reason],
        )

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetCapabilitiesResponse:
        answer = pb.GetCapabilitiesResponse(features=self._features())
        answer.MergeFrom(self._answer)
        return answer
