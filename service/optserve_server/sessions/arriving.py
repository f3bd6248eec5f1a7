"""A gradient of whole tensors and sparse rows while its bytes arrive one after the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.sessions.budget import UNBOUNDED
from optserve_server.sessions.layout import Layout
from optserve_server.sessions.sparse import NamedRows, check_rows
from optserve_server.sessions.staging import Allocate, NamedArray, Staging, check_names, stage_arrays


@dataclass(frozen=True)
class NamedIndices:
    """Which rows of a tensor are to come: int32 or int64, [k]; may be read-only and unaligned."""

    name: str
    indices: npt.NDArray[Any]


class Arriving:
    """A buffer for the bytes of whole tensors, in the order of the layout, and of rows behind them.

    Whatever can be wrong with names and indices is refused before the first byte.

    Args:
        layout: the session's layout.
        tensors: names of the whole tensors, in any order.
        rows: the rows of other tensors, in the order of their bytes.
        dtype: element type of the bytes; None for each tensor's own.
        allocate: gives buffers (uint8).

    Attributes:
        buffer: the bytes (uint8), to be filled in place.

    Raises:
        DomainError: UNKNOWN_TENSOR or DUPLICATE_TENSOR, naming ``tensors[i]`` or
            ``sparse_gradients[i].name``, and SHAPE_MISMATCH or OUT_OF_RANGE under
            ``sparse_gradients[i]``; or what ``allocate`` raises.
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Sequence[str],
        rows: Sequence[NamedIndices],
        dtype: np.dtype[Any] | None,
        allocate: Allocate = UNBOUNDED.array,
    ) -> None:
        fields = [f"sparse_gradients[{index}]" for index in range(len(rows))]
        paths = [*(f"tensors[{index}]" for index in range(len(tensors))), *(f"{f}.name" for f in fields)]
        check_names(layout, [*tensors, *(some.name for some in rows)], paths)
        for some, field in zip(rows, fields, strict=True):
            entry = layout[some.name]
            # Values of the right shape and of no memory: what is checked here is the indices.
            none = np.broadcast_to(np.zeros((), np.float32), (some.indices.size, *entry.shape[1:]))
            check_rows(entry, NamedRows(some.name, some.indices, none), field)
        self._layout, self._dtype, self._allocate = layout, dtype, allocate
        self._tensors, self._rows = sorted(tensors, key=layout.position), tuple(rows)
        self.buffer = allocate(sum(math.prod(shape) * kind.itemsize for shape, kind in self._parts()))

    def staging(self, *, lazy: bool) -> Staging:
        """What a unary step stages of the same gradient, once the last byte is there."""
        parts = self._arrays()
        whole = [NamedArray(name, next(parts)) for name in self._tensors]
        rows = [NamedRows(some.name, some.indices, next(parts)) for some in self._rows]
        staging = stage_arrays(self._layout, whole, rows, lazy=lazy, allocate=self._allocate)
        staging.tensors = tuple(dataclasses.replace(t, field="chunk.data") for t in staging.tensors)
        return staging

    def _parts(self) -> Iterator[tuple[tuple[int, ...], np.dtype[Any]]]:
        for name in self._tensors:
            entry = self._layout[name]
            yield entry.shape, self._dtype or entry.dtype
        for some in self._rows:
            entry = self._layout[some.name]
            yield (some.indices.size, *entry.shape[1:]), self._dtype or entry.dtype

    def _arrays(self) -> Iterator[npt.NDArray[Any]]:
        start = 0
        for shape, dtype in self._parts():
            stop = start + math.prod(shape) * dtype.itemsize
            yield self.buffer[start:stop].view(dtype).reshape(shape)
            start = stop
