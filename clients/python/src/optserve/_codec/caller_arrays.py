"""Receive buffers that are the caller's own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optserve._codec import dtypes
from optserve._codec.byte_layout import ByteLayout
from optserve._codec.dtypes import Array
from optserve._codec.layout import TensorInfo


def check_caller_arrays(into: Mapping[str, Array], tensors: Sequence[TensorInfo] | None) -> dict[str, Array]:
    """Checks arrays before anything is asked of the server.

    Args:
        into: the arrays by tensor name.
        tensors: those that are received; None if none are.

    Returns:
        The arrays that will be filled.

    Raises:
        ValueError: no parameters are received, an array is missing, read-only or of another shape.
        TypeError: one is not a NumPy array of float16, bfloat16, float32 or float64.
    """
    if tensors is None:
        raise ValueError("into is given, but no parameters are asked for: set pull")
    checked = {}
    for tensor in tensors:
        if tensor.name not in into:
            raise ValueError(f"into has no array for tensor {tensor.name!r}")
        array = into[tensor.name]
        if not isinstance(array, np.ndarray):
            raise TypeError(f"into[{tensor.name!r}] is not a NumPy array")
        dtypes.check_dtype(array.dtype, dtypes.WIRE_DTYPES, f"into[{tensor.name!r}]")
        if array.shape != tensor.shape:
            raise ValueError(f"into[{tensor.name!r}] has shape {array.shape}, but must have {tensor.shape}")
        if not array.flags.writeable:
            raise ValueError(f"into[{tensor.name!r}] is read-only")
        checked[tensor.name] = array
    return checked


def has_same_arrays(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    """Whether ``arrays`` has all of the others, themselves."""
    for name, array in others.items():  # noqa: SIM110 - a generator would cost every step more
        if arrays.get(name) is not array:
            return False
    return True


class CallerArrays:
    """Arrays that bytes are received into.

    Bytes go straight to their arrays. Only an array that is not row-major, or of another type than
    the bytes, is filled when all are there.

    Args:
        arrays: by tensor name; those of ``layout`` are used.
        layout: what is received.

    Attributes:
        pieces: writable views, in the order of the bytes.
    """

    def __init__(self, arrays: Mapping[str, Array], layout: ByteLayout) -> None:
        self._layout = layout
        self._targets = {place.name: arrays[place.name] for place in layout.places}
        self._staged: list[tuple[Array, Array]] = []
        self.pieces = [
            dtypes.view_bytes(self._get_receive_array(self._targets[place.name], place.dtype))
            for place in layout.places
        ]

    def matches(self, arrays: Mapping[str, Array], layout: ByteLayout) -> bool:
        """Whether these are the arrays, for what will be received."""
        return self._layout is layout and has_same_arrays(arrays, self._targets)

    def fill(self, data: memoryview) -> dict[str, Array]:
        """The arrays, from bytes that begin with all of theirs."""
        start = 0
        for piece in self.pieces:
            stop = start + len(piece)
            piece[:] = data[start:stop]
            start = stop
        return self.complete_arrays()

    def complete_arrays(self) -> dict[str, Array]:
        """The arrays, once all bytes are there."""
        for target, staged in self._staged:
            np.copyto(target, staged, casting="unsafe")
        return self._targets

    def _get_receive_array(self, target: Array, dtype: np.dtype[np.generic]) -> Array:
        if target.dtype == dtype and target.flags.c_contiguous:
            return target
        staged: Array = np.empty(target.shape, dtype)
        self._staged.append((target, staged))
        return staged
