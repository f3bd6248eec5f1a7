"""Gradients of some rows: validation, and summation of rows that are given more than once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason
from optserve_server.state.layout import TensorEntry


@dataclass(frozen=True)
class NamedRows:
    """Rows of a tensor; the arrays may be read-only and unaligned.

    Attributes:
        name: the tensor.
        indices: which rows, int32 or int64, [k].
        values: their values, [k, *row shape].
    """

    name: str
    indices: npt.NDArray[Any]
    values: npt.NDArray[Any]

    def digest_content(self) -> Iterator[bytes]:
        """What tells these rows from others."""
        yield repr((self.name, str(self.indices.dtype), str(self.values.dtype), self.values.shape)).encode()
        yield self.indices.tobytes()
        yield self.values.tobytes()


def check_rows(entry: TensorEntry, rows: NamedRows, field: str) -> None:
    """Rejects rows that the tensor does not have.

    Raises:
        DomainError: SHAPE_MISMATCH or OUT_OF_RANGE at a path under ``field``.
    """
    check_has_rows(entry, f"{field}.name")
    check_indices(entry, rows.indices, f"{field}.indices")
    expected = (rows.indices.size, *entry.shape[1:])
    if rows.values.shape != expected:
        text = f"given values of shape {shape_text(rows.values.shape)} for rows of {shape_text(expected)}"
        raise _shape_mismatch_error(
            entry, text, shape_text(expected), rows.values.shape, f"{field}.values.shape"
        )


def check_has_rows(entry: TensorEntry, field: str) -> None:
    """Rejects a scalar.

    Raises:
        DomainError: SHAPE_MISMATCH at ``field``.
    """
    if not entry.shape:
        raise _shape_mismatch_error(entry, "a scalar, which has no rows", "[rows,...]", (), field)


def check_indices(entry: TensorEntry, indices: npt.NDArray[Any], field: str) -> None:
    """Rejects indices that are not flat, or out of range.

    Raises:
        DomainError: SHAPE_MISMATCH at ``field.shape`` or OUT_OF_RANGE at ``field``.
    """
    if indices.ndim != 1:
        text = f"given indices of shape {shape_text(indices.shape)}"
        raise _shape_mismatch_error(entry, text, "[k]", indices.shape, f"{field}.shape")
    count = entry.shape[0]
    wrong = np.flatnonzero((indices < 0) | (indices >= count))
    if wrong.size:
        index = int(indices[wrong[0]])
        raise DomainError(
            Reason.OUT_OF_RANGE,
            f"row {index} of {entry.name!r} is out of range: it has {count} rows",
            field=field,
            metadata={"tensor": entry.name, "index": index, "range": f"in [0, {count})"},
        )


def sum_duplicates(rows: NamedRows, dtype: np.dtype[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Every row once: indices (int64, rising) and values.

    Args:
        rows: in any order.
        dtype: in which rows given more than once are added, one after the other as they were
            sent. What it cannot hold becomes infinite.
    """
    indices = rows.indices.astype(np.int64)
    unique, first, place = np.unique(indices, return_index=True, return_inverse=True)
    with np.errstate(over="ignore", invalid="ignore"):
        values = rows.values.astype(dtype)
        if unique.size == indices.size:
            return unique, values[first]
        total = values[first]
        again = np.ones(indices.size, bool)
        again[first] = False
        np.add.at(total, place[again], values[again])
    return unique, total


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as error metadata show it."""
    return "[" + ",".join(map(str, shape)) + "]"


def _shape_mismatch_error(
    entry: TensorEntry, text: str, expected: str, actual: tuple[int, ...], field: str
) -> DomainError:
    return DomainError(
        Reason.SHAPE_MISMATCH,
        f"{entry.name!r} is {text}",
        field=field,
        metadata={"tensor": entry.name, "expected": expected, "actual": shape_text(actual)},
    )
