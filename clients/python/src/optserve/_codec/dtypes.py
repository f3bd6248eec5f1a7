"""Conversion between NumPy's element types and the contract's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from optserve import coercion
from optserve.v1 import tensor_pb2

Array = NDArray[Any]
"""An array of any element type."""

TYPES: dict[np.dtype[np.generic], tensor_pb2.DataType.ValueType] = {
    np.dtype(np.float16): tensor_pb2.DATA_TYPE_FLOAT16,
    np.dtype(ml_dtypes.bfloat16): tensor_pb2.DATA_TYPE_BFLOAT16,
    np.dtype(np.float32): tensor_pb2.DATA_TYPE_FLOAT32,
    np.dtype(np.float64): tensor_pb2.DATA_TYPE_FLOAT64,
    np.dtype(np.int32): tensor_pb2.DATA_TYPE_INT32,
    np.dtype(np.int64): tensor_pb2.DATA_TYPE_INT64,
}
NUMPY_TYPES = {number: dtype for dtype, number in TYPES.items()}
WIRE_DTYPES = [dtype for dtype in TYPES if dtype.kind != "i"]
PARAMETER_DTYPES: list[np.dtype[np.generic]] = [np.dtype(np.float32), np.dtype(np.float64)]
SUPPORTED = list(TYPES)


def check_dtype(
    dtype: DTypeLike, allowed: Sequence[np.dtype[np.generic]], what: str = "this"
) -> np.dtype[np.generic]:
    """The dtype in the machine's byte order.

    Raises:
        TypeError: it is not among the allowed ones.
    """
    names = ", ".join(d.name for d in allowed)
    try:
        native: np.dtype[np.generic] = np.dtype(_numpy_name(dtype)).newbyteorder("=")
    except TypeError:
        raise TypeError(coercion.error_text(what, dtype, f"one of the element types {names}")) from None
    if native not in allowed:
        raise TypeError(f"{what} has element type {native.name}, but must have one of {names}")
    return native


def as_array(value: ArrayLike, allowed: Sequence[np.dtype[np.generic]], what: str) -> Array:
    """The value as a row-major array in the machine's byte order; copied only where it must be.

    Raises:
        TypeError: its element type is not among the allowed ones, or it cannot be read as an array.
    """
    array = _to_numpy_array(value, what)
    return np.asarray(array, dtype=check_dtype(array.dtype, allowed, what), order="C")


def _to_numpy_array(value: Any, what: str) -> Array:
    """The value as an array: of a tensor of PyTorch its values, bfloat16 as float32, which holds them."""
    if isinstance(value, np.ndarray):
        return value
    readers: tuple[Callable[[], Any], ...] = (
        lambda: value,
        lambda: value.detach().cpu(),
        lambda: value.detach().cpu().float(),
    )
    for read in readers:
        with contextlib.suppress(TypeError, ValueError, RuntimeError, AttributeError):
            return np.asarray(read())
    raise TypeError(coercion.error_text(what, value, "an array, or what NumPy reads as one"))


def _numpy_name(dtype: DTypeLike) -> DTypeLike:
    """NumPy's name of an element type of PyTorch; anything else as it is."""
    written = str(dtype)
    return written.removeprefix("torch.") if written.startswith("torch.") else dtype


def view_bytes(array: Array) -> memoryview:
    """The bytes of a row-major array, in place."""
    return array.reshape(-1).view(np.uint8).data


def to_tensor(array: Array) -> tensor_pb2.Tensor:
    """The message that holds a row-major array of a supported type."""
    return tensor_pb2.Tensor(dtype=TYPES[array.dtype], shape=array.shape, data=array.tobytes())


def from_tensor(tensor: tensor_pb2.Tensor) -> Array:
    """A writable array with the message's values."""
    flat = np.frombuffer(tensor.data, dtype=NUMPY_TYPES[tensor.dtype])
    return flat.reshape(tuple(tensor.shape)).copy()
