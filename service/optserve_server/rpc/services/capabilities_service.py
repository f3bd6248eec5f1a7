"""CapabilitiesService: what the server can do."""

from __future__ import annotations

from typing import Any

from grpc import aio

from optserve.v1 import capabilities_service_pb2 as pb
from optserve.v1.capabilities_service_pb2_grpc import CapabilitiesServiceServicer
from optserve_server import __version__
from optserve_server.arrays.backend import Backend
from optserve_server.sessions.store import Limits
from optserve_server.wire.fields.tensors import NUMBERS, PARAMETER_DTYPES, WIRE_DTYPES
from optserve_server.wire.specifications.capabilities import algorithms_to, limits_to


class CapabilitiesService(CapabilitiesServiceServicer):
    """Describes the server.

    Args:
        backend: what computes.
        limits: what is refused.
    """

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._answer = pb.GetCapabilitiesResponse(
            server_version=__version__,
            api_version="optserve.v1",
            backend=backend.name,
            device=backend.device,
            algorithms=algorithms_to(),
            parameter_dtypes=[NUMBERS[dtype] for dtype in PARAMETER_DTYPES],
            wire_dtypes=[NUMBERS[dtype] for dtype in WIRE_DTYPES],
            limits=limits_to(limits),
        )

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetCapabilitiesResponse:
        return self._answer
