"""Staging of a streamed gradient of whole tensors and sparse rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.resources.budget import UNBOUNDED
from optserve_server.state.layout import Layout
from optserve_server.state.sparse_rows import NamedRows, check_indices
from optserve_server.state.staging import Allocate, NamedArray, Staging, stage_arrays


@dataclass(frozen=True)
class NamedIndices:
    """Indices of a tensor's announced rows: int32 or int64, [k]; may be read-only and unaligned."""

    name: str
    indices: npt.NDArray[Any]


class SparseStaging:
    """A buffer for the bytes of whole tensors, in the order of the layout, and of rows behind them.

    Indices are checked before the first byte.

    Args:
        layout: the session's layout.
        tensors: names of the whole tensors, in any order; known, as those of the rows are.
        rows: the rows of other tensors, in the order of their bytes.
        dtype: element type of the bytes; None for each tensor's own.
        allocate: gives buffers (uint8).
        lazy: whether rows that a step does not send stay as they are.

    Attributes:
        buffer: the bytes (uint8), to be filled in place.

    Raises:
        DomainError: SHAPE_MISMATCH or OUT_OF_RANGE at ``row_indices[i]``, or what ``allocate``
            raises.
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Sequence[str],
        rows: Sequence[NamedIndices],
        dtype: np.dtype[Any] | None,
        allocate: Allocate = UNBOUNDED.allocate_array,
        *,
        lazy: bool,
    ) -> None:
        for index, some in enumerate(rows):
            check_indices(layout[some.name], some.indices, f"row_indices[{index}]")
        self._layout, self._dtype, self._allocate, self._lazy = layout, dtype, allocate, lazy
        self._tensors, self._rows = sorted(tensors, key=layout.tensor_index), tuple(rows)
        self.buffer = allocate(
            sum(math.prod(shape) * kind.itemsize for shape, kind in self._array_shapes_and_dtypes())
        )

    def make_staging(self) -> Staging:
        """What a unary step stages of the same gradient, once the last byte is there."""
        parts = self._array_views()
        whole = [NamedArray(name, next(parts)) for name in self._tensors]
        rows = [NamedRows(some.name, some.indices, next(parts)) for some in self._rows]
        staging = stage_arrays(self._layout, whole, rows, lazy=self._lazy, allocate=self._allocate)
        staging.tensors = tuple(dataclasses.replace(t, field="chunk.data") for t in staging.tensors)
        return staging

    def _array_shapes_and_dtypes(self) -> Iterator[tuple[tuple[int, ...], np.dtype[Any]]]:
        for name in self._tensors:
            entry = self._layout[name]
            yield entry.shape, self._dtype or entry.dtype
        for some in self._rows:
            entry = self._layout[some.name]
            yield (some.indices.size, *entry.shape[1:]), self._dtype or entry.dtype

    def _array_views(self) -> Iterator[npt.NDArray[Any]]:
        start = 0
        for shape, dtype in self._array_shapes_and_dtypes():
            stop = start + math.prod(shape) * dtype.itemsize
            yield self.buffer[start:stop].view(dtype).reshape(shape)
            start = stop
