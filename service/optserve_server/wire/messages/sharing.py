"""Messages of shared memory: requests, layouts, and steps in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve_server.errors import within
from optserve_server.shared_memory.live_parameters import LiveParameters
from optserve_server.shared_memory.regions import Key, Region
from optserve_server.state.staging import StagedTensor
from optserve_server.wire.fields.tensors import wire_dtype_from
from optserve_server.wire.messages.parameters import Layouts, add_layout, add_staged_layout, pull_from

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
    _add_layouts(response.gradients.layout, region.staging.tensors)
    if region.live is not None:
        response.parameters.byte_count = region.live.block.array.size
        _add_live_layouts(response.parameters.layout, region, region.live)
        response.parameters.live = True
    elif region.values is not None:
        response.parameters.byte_count = region.values.byte_count
        _add_layouts(response.parameters.layout, region.values.tensors)
    return response


def _add_layouts(layout: Layouts, tensors: Iterable[StagedTensor]) -> None:
    for tensor in tensors:
        add_staged_layout(layout, tensor)


def _add_live_layouts(layout: Layouts, region: Region, live: LiveParameters) -> None:
    names = region.key[0] if region.key else None
    known = None if names is None else frozenset(names)
    for entry in region.session.layout.entries:
        if known is None or entry.name in known:
            add_layout(layout, entry, entry.dtype, live.byte_offset(entry))
