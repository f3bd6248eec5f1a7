"""Arrays as the contract's tensors, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from optserve.v1.tensor_pb2 import (
    DATA_TYPE_BFLOAT16,
    DATA_TYPE_FLOAT16,
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_INT32,
    DATA_TYPE_INT64,
    DataType,
    SparseRows,
    Tensor,
)
from tests.conformance.training import Rows

Array = npt.NDArray[Any]

TYPES: dict[str, DataType.ValueType] = {
    "float16": DATA_TYPE_FLOAT16,
    "bfloat16": DATA_TYPE_BFLOAT16,
    "float32": DATA_TYPE_FLOAT32,
    "float64": DATA_TYPE_FLOAT64,
    "int32": DATA_TYPE_INT32,
    "int64": DATA_TYPE_INT64,
}
NAMES = {number: name for name, number in TYPES.items()}


def tensor(array: Array) -> Tensor:
    """An array as a message."""
    # ml_dtypes' bfloat16 has no byte order of its own; its bytes are an integer's.
    raw = np.ascontiguousarray(array).view(f"u{array.itemsize}")
    data = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    return Tensor(dtype=TYPES[array.dtype.name], shape=array.shape, data=data)


def sparse_rows(name: str, rows: Rows) -> SparseRows:
    """Rows of a tensor as a message."""
    return SparseRows(name=name, indices=tensor(rows.indices), values=tensor(rows.values))


def array_of(message: Tensor) -> Array:
    """A message as an array."""
    flat: Array = np.frombuffer(message.data, np.dtype(NAMES[message.dtype]).newbyteorder("<"))
    return flat.reshape(tuple(message.shape))
