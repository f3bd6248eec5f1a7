"""Messages of shared memory: requests, layouts, and steps in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.tensor_pb2 import TensorLayout
from optserve_server.errors import within
from optserve_server.shared_memory.live_parameters import LiveParameters
from optserve_server.shared_memory.regions import Key, Region
from optserve_server.state.staging import StagedTensor
from optserve_server.wire.fields.tensors import NUMBERS, wire_dtype_from
from optserve_server.wire.messages.parameters import pull_from, staging_layout_to

Gradients = tuple[tuple[str, ...] | None, np.dtype[Any] | None]
"""Tensors (None for all) and element type (None for their own)."""


def sharing_request_from(request: pb.ShareMemoryRequest) -> tuple[Gradients, Key | None]:
    """What the memory is to hold: gradients, and values or None."""
    dtype = wire_dtype_from(request.gradient_dtype, "gradient_dtype")
    key = None
    if request.HasField("pull"):
        with within("pull"):
            pull = pull_from(request.pull)
            key = (pull.tensors, pull.dtype, pull.point)
    return (tuple(request.tensors) or None, dtype), key


def region_to(region: Region, socket: str, seconds: float) -> pb.ShareMemoryResponse:
    """Where a region is fetched, and what is in it."""
    response = pb.ShareMemoryResponse(region=region.name, socket=socket)
    response.claim_within.FromNanoseconds(round(seconds * 1e9))
    response.gradients.byte_count = region.staging.byte_count
    response.gradients.layout.extend(_layouts_to(region.staging.tensors))
    if region.live is not None:
        response.parameters.byte_count = region.live.block.array.size
        response.parameters.layout.extend(_live_to(region, region.live))
        response.parameters.live = True
    elif region.values is not None:
        response.parameters.byte_count = region.values.byte_count
        response.parameters.layout.extend(_layouts_to(region.values.tensors))
    return response


def _layouts_to(tensors: Iterable[StagedTensor]) -> Iterable[TensorLayout]:
    return (staging_layout_to(tensor) for tensor in tensors)


def _live_to(region: Region, live: LiveParameters) -> Iterable[TensorLayout]:
    names = region.key[0] if region.key else None
    for entry in region.session.layout.entries:
        if names is None or entry.name in names:
            yield TensorLayout(
                name=entry.name,
                dtype=NUMBERS[entry.dtype],
                shape=entry.shape,
                byte_offset=live.byte_offset(entry),
                group=entry.group,
                byte_count=entry.size * entry.dtype.itemsize,
            )
