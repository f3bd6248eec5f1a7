"""Parameters as messages: pulls, and values with their layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.unknown_fields import UnknownFieldSet

from optserve.v1 import session_service_pb2
from optserve.v1.session_pb2 import ParameterPoint
from optserve.v1.tensor_pb2 import NamedTensor, TensorLayout
from optserve_server.errors import within
from optserve_server.state.layout import TensorEntry
from optserve_server.state.read_parameters import Point, Pull, Values
from optserve_server.state.staging import StagedTensor, Staging
from optserve_server.wire.fields.enums import enum_member, enum_number
from optserve_server.wire.fields.tensors import NUMBERS, tensor_to, wire_dtype_from
from optserve_server.wire.fields.unknown_fields import reject_unknown_fields

Layouts = RepeatedCompositeFieldContainer[TensorLayout]


def pull_from(message: session_service_pb2.PullOptions) -> Pull:
    """Which values to send; fields of errors are paths within ``message``."""
    if len(UnknownFieldSet(message)):
        reject_unknown_fields(message)
    dtype = wire_dtype_from(message.wire_dtype, "wire_dtype")
    return Pull(tuple(message.tensors) or None, dtype, _decode_point(message.point))


def _decode_point(number: int) -> Point:
    if not number:
        return Point.PARAMETERS
    with within("point"):
        return enum_member(Point, ParameterPoint.DESCRIPTOR, number)


def values_header_to(values: Values) -> session_service_pb2.ParametersHeader:
    """What the chunks of ``values`` hold."""
    header = session_service_pb2.ParametersHeader(
        step=values.step, point=parameter_point_to(values.point), byte_count=values.buffer.size
    )
    for tensor in values.tensors:
        add_staged_layout(header.layout, tensor)
    return header


def parameter_point_to(point: Point) -> ParameterPoint.ValueType:
    """A point's number."""
    return ParameterPoint.ValueType(enum_number(point, ParameterPoint.DESCRIPTOR))


def not_modified_header(step: int, point: Point) -> session_service_pb2.ParametersHeader:
    """The answer to a pull that asks for something newer than there is."""
    return session_service_pb2.ParametersHeader(step=step, point=parameter_point_to(point), not_modified=True)


def staging_values_to(staging: Staging) -> list[NamedTensor]:
    """Values in one message."""
    return [
        NamedTensor(name=t.entry.name, tensor=tensor_to(staging.array(t).reshape(t.entry.shape)))
        for t in staging.tensors
    ]


def add_staged_layout(layout: Layouts, tensor: StagedTensor) -> None:
    """Adds the layout of a tensor in a staging."""
    add_layout(layout, tensor.entry, tensor.dtype, tensor.byte_offset)


def add_layout(layout: Layouts, entry: TensorEntry, dtype: np.dtype[Any], byte_offset: int) -> None:
    """Adds the layout of a tensor in a sequence of bytes of the given element type.

    Layouts are made where they stay: to copy 40,000 of them, protobuf holds the interpreter for 60 ms.
    """
    layout.add(
        name=entry.name,
        dtype=NUMBERS[dtype],
        shape=entry.shape,
        byte_offset=byte_offset,
        group=entry.group,
        byte_count=entry.size * dtype.itemsize,
    )
