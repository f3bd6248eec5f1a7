"""Arrays on their way to the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optserve._codec import chunks, dtypes
from optserve._codec.allocator import expect_large_messages
from optserve._codec.dtypes import Array
from optserve._codec.framing import ChunkParts, Framing
from optserve._codec.layout import Layout, TensorInfo
from optserve._codec.sparse_rows import AnyGradients, Rows, split
from optserve.progress import Bar
from optserve.v1 import tensor_pb2


@dataclass(frozen=True)
class Payload:
    """Arrays in layout order, and rows behind them.

    Attributes:
        tensors: what each array belongs to.
        arrays: row-major, each of a type that the wire knows.
        complete: whether every tensor of the session is there.
        rows: sparse rows of further tensors.
        sources: where given, arrays that are still to be converted into those of the same place;
            None for what is there. They are, piece by piece, while `messages` are sent.
        byte_count: length of `values` together.
    """

    tensors: list[TensorInfo]
    arrays: list[Array]
    complete: bool
    rows: list[Rows] = field(default_factory=list)
    sources: Sequence[Array | None] = ()
    byte_count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "byte_count", sum([array.nbytes for array in self.values]))

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

    @classmethod
    def of_gradients(
        cls, layout: Layout, gradients: AnyGradients, wire_dtype: DTypeLike | None = None
    ) -> Payload:
        """Gradients of whole tensors and of rows.

        Raises:
            ValueError: there are none, which the header of a stream could not tell from all of them.
            InvalidArgument: a name or a shape is wrong.
            TypeError: an element type is.
        """
        if not gradients:
            raise ValueError("gradients is empty, but must have the gradient of at least one tensor")
        dense, rows = split(layout, gradients, wire_dtype)
        return replace(cls.of(layout, dense, "gradients", wire_dtype), rows=rows)

    @property
    def values(self) -> list[Array]:
        """Everything that travels as bytes: the arrays, then the rows' values."""
        return [*self.arrays, *(some.values for some in self.rows)]

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
        kinds = {array.dtype for array in self.values}
        if len(kinds) <= 1:
            return self
        wide = np.dtype(np.float64) if np.dtype(np.float64) in kinds else np.dtype(np.float32)
        arrays = [array.astype(wide, copy=False) for array in self.arrays]
        return replace(self, arrays=arrays, rows=[some.astype(wide) for some in self.rows])

    def copied(self) -> Payload:
        """The payload in arrays of its own, all of it converted."""
        arrays = [array.copy() for array in self.arrays]
        for array, source in zip(arrays, self.sources, strict=False):
            if source is not None:
                np.copyto(array, source, casting="unsafe")
        return replace(self, arrays=arrays, rows=[some.copied() for some in self.rows], sources=())

    @property
    def data_type(self) -> tensor_pb2.DataType.ValueType:
        """The element type of a uniform payload."""
        return dtypes.TYPES[self.values[0].dtype]

    def messages(self, framing: Framing[Any], head: bytes, bar: Bar) -> Iterator[bytes]:
        """The messages of a stream that carry `values`, one after the other; `pieces` joined."""
        return map(b"".join, self.pieces(framing, head, bar))

    def pieces(self, framing: Framing[Any], head: bytes, bar: Bar) -> Iterator[Sequence[Any]]:
        """The same messages in pieces: contiguous buffers of bytes.

        Args:
            framing: of the messages.
            head: what else the first of them says, encoded.
            bar: is told of the bytes.
        """
        if 0 < self.byte_count <= chunks.CHUNK_BYTES:
            bar.update(self.byte_count)
            views = [dtypes.bytes_of(array) for array in self.values]
            yield framing.pieces(head, ChunkParts(0, self.byte_count, views))
            return
        expect_large_messages()
        for chunk in chunks.cut(self._views(), bar.update):
            yield framing.pieces(head, chunk)
            head = b""
        if head:
            yield (head,)

    def _views(self) -> Iterator[memoryview]:
        """The bytes; those that are still to be converted are when they are asked for."""
        for array, source in zip_longest(self.values, self.sources):
            if source is None:
                yield dtypes.bytes_of(array)
                continue
            flat, given = array.reshape(-1), source.reshape(-1)
            size = chunks.CHUNK_BYTES // array.itemsize
            for start in range(0, flat.size, size):
                piece = flat[start : start + size]
                np.copyto(piece, given[start : start + size], casting="unsafe")
                yield dtypes.bytes_of(piece)
