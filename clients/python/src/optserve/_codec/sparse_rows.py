"""Gradients of some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout

INDEX_DTYPES: list[np.dtype[np.generic]] = [np.dtype(np.int32), np.dtype(np.int64)]


@dataclass(frozen=True)
class SparseRows:
    """The gradient of some rows of a tensor, as of an embedding.

    ``Gradient.sparse`` of the session's specification defines how the other rows are handled.

    Attributes:
        indices: which rows, int32 or int64, of shape [k], in any order. A row that is given more
            than once counts as the sum.
        values: their gradients, float16, bfloat16, float32 or float64, of shape [k, *row shape].
    """

    indices: ArrayLike
    values: ArrayLike


AnyGradients: TypeAlias = Mapping[str, ArrayLike | SparseRows]
"""Whole arrays and sparse rows by tensor name."""


@dataclass(frozen=True)
class Rows:
    """Sparse rows as they are sent.

    Attributes:
        name: of the tensor.
        indices: row-major, of a type that the contract has.
        values: row-major, of a type that the contract has.
    """

    name: str
    indices: Array
    values: Array

    def astype(self, dtype: DTypeLike) -> Rows:
        """The rows with values of another type."""
        return Rows(self.name, self.indices, self.values.astype(dtype, copy=False))

    def copy(self) -> Rows:
        """Copies the arrays."""
        return Rows(self.name, self.indices.copy(), self.values.copy())


def split_gradients(
    layout: Layout, gradients: AnyGradients, wire_dtype: DTypeLike | None = None
) -> tuple[dict[str, ArrayLike], list[Rows]]:
    """Whole arrays, and sparse rows converted where a wire type is asked for.

    Raises:
        InvalidArgument: a name or a shape is wrong.
        TypeError: an element type is.
    """
    dense: dict[str, ArrayLike] = {}
    sparse = []
    for name, value in gradients.items():
        if isinstance(value, SparseRows):
            sparse.append(_convert_rows(layout, name, value, wire_dtype))
        else:
            dense[name] = value
    return dense, sparse


def _convert_rows(layout: Layout, name: str, given: SparseRows, wire_dtype: DTypeLike | None) -> Rows:
    field = f"gradients[{name!r}]"
    indices = np.asarray(given.indices)
    if indices.size == 0 and not isinstance(given.indices, np.ndarray):
        indices = indices.astype(np.int64)  # what NumPy makes of an empty list is float64
    indices = dtypes.as_array(indices, INDEX_DTYPES, f"{field}.indices")
    values = dtypes.as_array(given.values, dtypes.WIRE_DTYPES, f"{field}.values")
    layout.check_rows(name, indices.shape, values.shape, field)
    if wire_dtype is not None:
        values = values.astype(dtypes.check_dtype(wire_dtype, dtypes.WIRE_DTYPES, "wire_dtype"), copy=False)
    return Rows(name, indices, values)
