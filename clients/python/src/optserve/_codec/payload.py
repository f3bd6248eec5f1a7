"""Encoded gradients or parameters of one request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optserve._codec import chunks, dtypes
from optserve._codec.allocator import keep_freed_memory
from optserve._codec.dtypes import Array
from optserve._codec.framing import ChunkParts, ChunkView, Framing
from optserve._codec.layout import Layout, TensorInfo
from optserve._codec.sparse_rows import AnyGradients, Rows, split_gradients
from optserve.v1 import tensor_pb2


@dataclass(frozen=True)
class Payload:
    """Arrays in layout order, and rows behind them.

    Attributes:
        tensors: what each array belongs to.
        arrays: row-major, each of a type that the wire knows.
        complete: whether every tensor of the session is there.
        rows: sparse rows of further tensors.
    """

    tensors: list[TensorInfo]
    arrays: list[Array]
    complete: bool
    rows: list[Rows] = field(default_factory=list)

    @classmethod
    def from_arrays(
        cls, layout: Layout, arrays: Mapping[str, ArrayLike], what: str, wire_dtype: DTypeLike | None = None
    ) -> Payload:
        """Aligns arrays to a layout, and converts them if a wire type is asked for.

        Raises:
            InvalidArgument: a name or a shape is wrong.
            TypeError: an element type is.
        """
        aligned = layout.align(arrays, what)
        values = [array for _, array in aligned]
        if wire_dtype is not None:
            wire = dtypes.check_dtype(wire_dtype, dtypes.WIRE_DTYPES, "wire_dtype")
            values = [array.astype(wire, copy=False) for array in values]
        return cls([tensor for tensor, _ in aligned], values, len(aligned) == len(layout))

    @classmethod
    def of_gradients(
        cls, layout: Layout, gradients: AnyGradients, wire_dtype: DTypeLike | None = None
    ) -> Payload:
        """Gradients of whole tensors and of rows, of one element type or each of its tensor's.

        Raises:
            InvalidArgument: a name or a shape is wrong.
            TypeError: an element type is.
            ValueError: there is none.
        """
        dense, rows = split_gradients(layout, gradients, wire_dtype)
        payload = replace(cls.from_arrays(layout, dense, "gradients", wire_dtype), rows=rows)
        if not payload.arrays and not payload.rows:
            raise ValueError("gradients is empty, but must have the gradient of at least one tensor")
        return payload if payload.matches_tensor_dtypes(layout) else payload.convert_to_one_dtype()

    @property
    def values(self) -> list[Array]:
        """Everything that travels as bytes: the arrays, then the rows' values."""
        return [*self.arrays, *(some.values for some in self.rows)]

    @property
    def byte_count(self) -> int:
        """Length of `values` together."""
        return sum([array.nbytes for array in self.values])

    @property
    def header_names(self) -> list[str]:
        """The names that a header states: none when complete."""
        return [] if self.complete else [tensor.name for tensor in self.tensors]

    def matches_tensor_dtypes(self, layout: Layout) -> bool:
        """Whether the element type of each value is its tensor's own."""
        names = [*(tensor.name for tensor in self.tensors), *(some.name for some in self.rows)]
        pairs = zip(names, self.values, strict=True)
        return all(array.dtype == layout[name].dtype for name, array in pairs)

    def convert_to_one_dtype(self) -> Payload:
        """The payload with one element type and no value changed."""
        kinds = {array.dtype for array in self.values}
        if len(kinds) <= 1:
            return self
        wide = np.dtype(np.float64) if np.dtype(np.float64) in kinds else np.dtype(np.float32)
        arrays = [array.astype(wide, copy=False) for array in self.arrays]
        return replace(self, arrays=arrays, rows=[some.astype(wide) for some in self.rows])

    @property
    def data_type(self) -> tensor_pb2.DataType.ValueType:
        """The one element type of the values; unspecified if there are several."""
        kinds = {array.dtype for array in self.values}
        return dtypes.TYPES[kinds.pop()] if len(kinds) == 1 else tensor_pb2.DATA_TYPE_UNSPECIFIED


def encode_pieces(
    framing: Framing[Any],
    head: bytes,
    arrays: Sequence[Array],
    byte_count: int,
    on_sent: Callable[[int], object] | None = None,
    sources: Sequence[Array | None] = (),
    start: int = 0,
) -> Iterable[Sequence[Any]]:
    """Returns the messages that carry arrays, each in pieces: contiguous buffers of bytes.

    Args:
        framing: of the messages.
        head: what else the first of them says, encoded.
        arrays: row-major, in the order of their bytes.
        byte_count: length of the arrays together.
        on_sent: called with the byte count of each chunk.
        sources: arrays to be converted into those of the same place, piece by piece while the
            messages are made; None for those that need no conversion.
        start: how many of the first bytes are left out.
    """
    if byte_count > chunks.CHUNK_BYTES or sources:
        return _encode_messages(
            framing, head, chunks.cut_chunks(_byte_views(arrays, sources), on_sent, start)
        )
    if on_sent is not None:
        on_sent(byte_count)
    if not byte_count:
        return ((head,),)
    return (framing.message_buffers(head, ChunkParts(0, byte_count, list(map(dtypes.view_bytes, arrays)))),)


def _encode_messages(
    framing: Framing[Any], head: bytes, cut: Iterable[ChunkView | ChunkParts]
) -> Iterator[Sequence[Any]]:
    keep_freed_memory()
    for chunk in cut:
        yield framing.message_buffers(head, chunk)
        head = b""


def _byte_views(arrays: Sequence[Array], sources: Sequence[Array | None]) -> Iterator[memoryview]:
    """Yields the bytes of arrays; those of converted ones when they are asked for."""
    for array, source in zip_longest(arrays, sources):
        if source is None:
            yield dtypes.view_bytes(array)
            continue
        flat, given = array.reshape(-1), source.reshape(-1)
        size = chunks.CHUNK_BYTES // array.itemsize
        for start in range(0, flat.size, size):
            piece = flat[start : start + size]
            np.copyto(piece, given[start : start + size], casting="unsafe")
            yield dtypes.view_bytes(piece)
