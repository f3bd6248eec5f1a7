"""Arrays on their way to the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optserve import chunks, dtypes
from optserve.dtypes import Array
from optserve.framing import ChunkView
from optserve.layout import Layout, TensorInfo
from optserve.progress import Bar
from optserve.v1 import tensor_pb2


@dataclass(frozen=True)
class Payload:
    """Arrays in layout order.

    Attributes:
        tensors: what each array belongs to.
        arrays: row-major, each of a type that the wire knows.
        complete: whether every tensor of the session is there.
    """

    tensors: list[TensorInfo]
    arrays: list[Array]
    complete: bool

    @classmethod
    def of(
        cls, layout: Layout, arrays: Mapping[str, ArrayLike], what: str, wire_dtype: DTypeLike | None = None
    ) -> Payload:
        """Aligns arrays to a layout, and converts them where a wire type is asked for.

        Raises:
            InvalidArgument: a name or a shape is wrong.
            TypeError: an element type is.
        """
        aligned = layout.align(arrays, what)
        values = [array for _, array in aligned]
        if wire_dtype is not None:
            wire = dtypes.checked(wire_dtype, dtypes.WIRE_DTYPES, "wire_dtype")
            values = [array.astype(wire, copy=False) for array in values]
        return cls([tensor for tensor, _ in aligned], values, len(aligned) == len(layout))

    @property
    def byte_count(self) -> int:
        """Length of all arrays together."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def names(self) -> list[str]:
        """The names that a header states: none when complete."""
        return [] if self.complete else [tensor.name for tensor in self.tensors]

    def named_tensors(self) -> list[tensor_pb2.NamedTensor]:
        """The arrays as messages, each in its own type."""
        return [
            tensor_pb2.NamedTensor(name=tensor.name, tensor=dtypes.to_tensor(array))
            for tensor, array in zip(self.tensors, self.arrays, strict=True)
        ]

    def uniform(self) -> Payload:
        """The payload with one element type, as a stream wants it, and no value changed."""
        kinds = {array.dtype for array in self.arrays}
        if len(kinds) <= 1:
            return self
        wide = np.dtype(np.float64) if np.dtype(np.float64) in kinds else np.dtype(np.float32)
        return Payload(self.tensors, [array.astype(wide, copy=False) for array in self.arrays], self.complete)

    def copied(self) -> Payload:
        """The payload in arrays of its own."""
        return Payload(self.tensors, [array.copy() for array in self.arrays], self.complete)

    @property
    def data_type(self) -> tensor_pb2.DataType.ValueType:
        """The element type of a uniform payload."""
        return dtypes.TYPES[self.arrays[0].dtype]

    def chunks(self, bar: Bar) -> Iterator[ChunkView]:
        """The arrays' bytes, one after the other; the bar is told of them."""
        return chunks.cut((dtypes.bytes_of(array) for array in self.arrays), bar.update)
