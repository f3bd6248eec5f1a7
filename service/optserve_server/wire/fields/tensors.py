"""Tensors: element types, shapes and bytes, viewed where they were received."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from optserve.v1 import tensor_pb2
from optserve_server.errors import DomainError, Reason, mismatch_error

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)

DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT16: FLOAT16,
    tensor_pb2.DATA_TYPE_BFLOAT16: BFLOAT16,
    tensor_pb2.DATA_TYPE_FLOAT32: FLOAT32,
    tensor_pb2.DATA_TYPE_FLOAT64: FLOAT64,
    tensor_pb2.DATA_TYPE_INT32: INT32,
    tensor_pb2.DATA_TYPE_INT64: INT64,
}
"""The NumPy type of each element type."""

NUMBERS = {dtype: tensor_pb2.DataType.ValueType(number) for number, dtype in DTYPES.items()}
"""The element type of each NumPy type."""

PARAMETER_DTYPES = (FLOAT32, FLOAT64)
"""What parameters may be made of."""

WIRE_DTYPES = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)
"""What gradients, and parameters on their way, may be made of."""

INDEX_DTYPES = (INT32, INT64)
"""What indices of rows may be made of."""

MAX_RANK = 32
"""Dimensions that a tensor may have anywhere; a server's own limit may be lower."""


def dtype_from(number: int, allowed: Collection[np.dtype[Any]], field: str) -> np.dtype[Any]:
    """The NumPy type of a stated element type.

    Raises:
        DomainError: FIELD_REQUIRED, UNSUPPORTED_VALUE or DTYPE_MISMATCH at ``field``.
    """
    if number == tensor_pb2.DATA_TYPE_UNSPECIFIED:
        raise DomainError(Reason.FIELD_REQUIRED, f"{field} is required", field=field)
    if number not in DTYPES:
        raise DomainError(Reason.UNSUPPORTED_VALUE, f"{number} is no element type", field=field)
    dtype = DTYPES[number]
    if dtype not in allowed:
        expected = " or ".join(kind.name for kind in allowed)
        raise mismatch_error(Reason.DTYPE_MISMATCH, field, expected, dtype.name)
    return dtype


def wire_dtype_from(number: int, field: str) -> np.dtype[Any] | None:
    """The type that bytes travel in; None if each tensor keeps its own."""
    return dtype_from(number, WIRE_DTYPES, field) if number else None


def shape_from(extents: Collection[int], field: str = "shape") -> tuple[int, ...]:
    """A shape that an array can have.

    Raises:
        DomainError: OUT_OF_RANGE at ``field``.
    """
    shape = tuple(extents)
    elements = math.prod(filter(None, shape))  # those beside an empty dimension are bounded as well
    if len(shape) > MAX_RANK or min(shape, default=0) < 0 or elements >= 1 << 59:
        text = "[" + ",".join(map(str, shape[:MAX_RANK])) + "]"
        raise DomainError(Reason.OUT_OF_RANGE, f"{text} is no shape of a tensor", field=field)
    return shape


def array_from(
    tensor: tensor_pb2.Tensor, allowed: Collection[np.dtype[Any]], name: str = ""
) -> npt.NDArray[Any]:
    """A read-only view of a tensor's bytes; fields of errors are paths within ``tensor``.

    Args:
        tensor: the message.
        allowed: what it may be made of.
        name: the tensor's name in its session, if it has one, for the error's metadata.

    Raises:
        DomainError: what `dtype_from` and `shape_from` raise, and BYTE_LENGTH_MISMATCH.
    """
    dtype = dtype_from(tensor.dtype, allowed, "dtype")
    shape = shape_from(tensor.shape)
    data = tensor.data
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise DomainError(
            Reason.BYTE_LENGTH_MISMATCH,
            f"data holds {len(data)} bytes, but its type and shape ask for {expected}",
            field="data",
            metadata=({"tensor": name} if name else {}) | {"expected": expected, "actual": len(data)},
        )
    return np.frombuffer(data, dtype).reshape(shape)


def tensor_to(array: npt.NDArray[Any]) -> tensor_pb2.Tensor:
    """A message holding ``array``."""
    return tensor_pb2.Tensor(dtype=NUMBERS[array.dtype], shape=array.shape, data=array.tobytes())
