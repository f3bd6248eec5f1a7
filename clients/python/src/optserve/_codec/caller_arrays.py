"""Parameters that are read into the caller's own arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.parameters_header import Contents
from optserve.parameters import Pull


def check(into: Mapping[str, Array], layout: Layout, pull: Pull | None) -> dict[str, Array]:
    """Checks arrays before anything is asked of the server.

    Returns:
        Those that will be filled.

    Raises:
        ValueError: no parameters are asked for, an array is missing, is read-only or has another
            shape.
        TypeError: one is no array of float16, bfloat16, float32 or float64.
    """
    if pull is None:
        raise ValueError("arrays to read parameters into are given, but no parameters are asked for")
    checked = {}
    for tensor in layout.select(pull.tensors):
        if tensor.name not in into:
            raise ValueError(f"there is no array to read {tensor.name!r} into")
        array = into[tensor.name]
        if not isinstance(array, np.ndarray):
            raise TypeError(f"into[{tensor.name!r}] is no NumPy array")
        dtypes.checked(array.dtype, dtypes.WIRE_DTYPES, f"into[{tensor.name!r}]")
        if array.shape != tensor.shape:
            raise ValueError(f"into[{tensor.name!r}] has shape {array.shape}, but must have {tensor.shape}")
        if not array.flags.writeable:
            raise ValueError(f"into[{tensor.name!r}] is read-only")
        checked[tensor.name] = array
    return checked


def same(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    """Whether ``arrays`` has all of the others, themselves."""
    for name, array in others.items():  # noqa: SIM110 - a generator would cost every step more
        if arrays.get(name) is not array:
            return False
    return True


class Into:
    """The caller's arrays as the place where bytes arrive.

    Bytes go straight to their arrays. Only one that is not row-major, or is of another type than
    the bytes, is filled when all are there.

    Args:
        arrays: by tensor name; those that `contents` holds are used.
        contents: what will arrive.
    """

    def __init__(self, arrays: Mapping[str, Array], contents: Contents) -> None:
        self._contents = contents
        self._targets = {place.name: arrays[place.name] for place in contents.places}
        self._staged: list[tuple[Array, Array]] = []
        self.pieces = [
            dtypes.bytes_of(self._landing(self._targets[place.name], place.dtype))
            for place in contents.places
        ]

    def serves(self, arrays: Mapping[str, Array], contents: Contents) -> bool:
        """Whether this is the place of these arrays for what will arrive."""
        return self._contents is contents and same(arrays, self._targets)

    def fill(self, data: memoryview) -> dict[str, Array]:
        """The arrays, from bytes that begin with all of theirs."""
        start = 0
        for piece in self.pieces:
            stop = start + len(piece)
            piece[:] = data[start:stop]
            start = stop
        return self.arrays()

    def arrays(self) -> dict[str, Array]:
        """The arrays, once all bytes are there."""
        for target, staged in self._staged:
            np.copyto(target, staged, casting="unsafe")
        return self._targets

    def _landing(self, target: Array, dtype: np.dtype[np.generic]) -> Array:
        if target.dtype == dtype and target.flags.c_contiguous:
            return target
        staged: Array = np.empty(target.shape, dtype)
        self._staged.append((target, staged))
        return staged
