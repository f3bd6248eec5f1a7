"""What a run of parameter bytes holds."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optserve import dtypes
from optserve.dtypes import Array
from optserve.framing import Encoded
from optserve.spec import known
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_service_pb2 as wire


class Place(NamedTuple):
    """Where one tensor lies in a run of bytes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int
    byte_count: int


class Contents:
    """What a header says of the bytes that follow, the step aside.

    Attributes:
        byte_count: how many they are.
        point: which of the session's values; None for one newer than this client.
        modified: False where they were to be newer than a step and are not.
        places: the tensors, in the order of their bytes.
        shared: whether the values lie in shared memory; no bytes follow.
        change: how many changes they are the outcome of, where that memory is live.
    """

    def __init__(self, header: wire.ParametersHeader) -> None:
        self.byte_count = header.byte_count
        self.point = known(ParameterPoint, header.point)
        self.modified = not header.not_modified
        self.shared = header.shared
        self.change = header.change
        self.places = []
        for tensor in header.layout:
            dtype, shape = dtypes.NUMPY_TYPES[tensor.dtype], tuple(tensor.shape)
            size = math.prod(shape) * dtype.itemsize
            self.places.append(Place(tensor.name, dtype, shape, tensor.byte_offset, size))

    def copied(self, received: Encoded, start: int) -> dict[str, Array]:
        """The tensors out of a message that holds the bytes, in memory of their own.

        Args:
            received: the message.
            start: where in it the bytes begin.
        """
        if len(self.places) == 1:
            [(name, dtype, shape, offset, _)] = self.places
            return {name: np.ndarray(shape, dtype, received, start + offset).copy()}
        return self.arrays(np.frombuffer(received, np.uint8, self.byte_count, start).copy())

    def arrays(self, buffer: NDArray[np.uint8]) -> dict[str, Array]:
        """The tensors in a buffer that holds the bytes; copies only where one would lie unaligned."""
        return {
            name: np.ndarray(shape, dtype, buffer, start)
            if start % dtype.itemsize == 0
            else buffer[start : start + size].copy().view(dtype).reshape(shape)
            for name, dtype, shape, start, size in self.places
        }
