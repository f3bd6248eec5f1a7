"""Tensors within a sequence of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve.v1 import tensor_pb2


class TensorRange(NamedTuple):
    """The byte range of one tensor in a sequence of bytes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int
    byte_count: int


class ByteLayout:
    """The tensors of a sequence of bytes, in their order.

    Args:
        tensors: as the server described them.
        byte_count: length of the sequence.

    Attributes:
        places: the tensors.
        byte_count: length of the sequence.
    """

    def __init__(self, tensors: Iterable[tensor_pb2.TensorLayout], byte_count: int) -> None:
        self.byte_count = byte_count
        self.places = [
            TensorRange(t.name, dtypes.NUMPY_TYPES[t.dtype], tuple(t.shape), t.byte_offset, t.byte_count)
            for t in tensors
        ]

    def arrays(self, buffer: NDArray[np.uint8]) -> dict[str, Array]:
        """Views of the tensors in a buffer that holds the bytes."""
        found: dict[str, Array] = {}
        for name, dtype, shape, start, _ in self.places:
            found[name] = np.ndarray(shape, dtype, buffer, start)
        return found
