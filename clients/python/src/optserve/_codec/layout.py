"""A session's tensors as the server lays them out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from optserve import errors
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve.v1 import tensor_pb2


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a session.

    Attributes:
        name: unique in the session.
        dtype: of the parameter, float32 or float64.
        shape: outermost dimension first.
        group: the parameter group it belongs to; empty for the default group.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    group: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def byte_count(self) -> int:
        """Length in its own type."""
        return self.size * self.dtype.itemsize


class Layout(Mapping[str, TensorInfo]):
    """The tensors of a session by name, in the order in which their bytes follow each other."""

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}

    @classmethod
    def from_messages(cls, messages: Iterable[tensor_pb2.TensorLayout]) -> Layout:
        """The layout that a server described."""
        return cls(TensorInfo(m.name, dtypes.NUMPY_TYPES[m.dtype], tuple(m.shape), m.group) for m in messages)

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Layout({list(self._tensors.values())})"

    @cached_property
    def parameter_count(self) -> int:
        """Number of elements of all tensors together."""
        return sum(tensor.size for tensor in self.values())

    @cached_property
    def byte_count(self) -> int:
        """Length of all tensors together, each in its own type."""
        return sum(tensor.byte_count for tensor in self.values())

    def select(self, names: Sequence[str] | None) -> list[TensorInfo]:
        """The named tensors in layout order; all when None.

        Raises:
            ValueError: no name is given.
            InvalidArgument: UNKNOWN_TENSOR or DUPLICATE_TENSOR.
        """
        if names is None:
            return list(self.values())
        if not names:
            raise ValueError("no tensor is named; None means all")
        wanted: set[str] = set()
        for i, name in enumerate(names):
            field = f"tensors[{i}]"
            if name in wanted:
                raise _invalid_argument_error(
                    errors.Reason.DUPLICATE_TENSOR, f"{name!r} is named twice", field, name
                )
            self._check_name(name, field)
            wanted.add(name)
        return [tensor for tensor in self.values() if tensor.name in wanted]

    def align(self, arrays: Mapping[str, ArrayLike], what: str) -> list[tuple[TensorInfo, Array]]:
        """The arrays in layout order, each row-major and with its tensor.

        The shapes are checked here because a stream of bytes does not carry them.

        Raises:
            InvalidArgument: UNKNOWN_TENSOR or SHAPE_MISMATCH, with the field ``what['name']``.
            TypeError: an array is not of a floating-point type that the wire knows.
        """
        for name in arrays:
            self._check_name(name, f"{what}[{name!r}]")
        return [
            (tensor, _check_shape(tensor, arrays[tensor.name], what))
            for tensor in self.values()
            if tensor.name in arrays
        ]

    def check_rows(self, name: str, indices: tuple[int, ...], values: tuple[int, ...], field: str) -> None:
        """Checks the shapes of indices and values against a tensor.

        Raises:
            InvalidArgument: UNKNOWN_TENSOR or SHAPE_MISMATCH, with the field.
        """
        self._check_name(name, field)
        shape = self[name].shape
        if not shape:
            facts = {"expected": "[rows,...]", "actual": "[]"}
            raise _invalid_argument_error(
                errors.Reason.SHAPE_MISMATCH, f"{name!r} has no rows", field, name, **facts
            )
        for what, actual, expected in (
            ("indices", indices, (indices[:1] or (values[:1] or (0,)))),
            ("values", values, (*indices[:1], *shape[1:])),
        ):
            if actual != expected:
                facts = {"expected": _shape_text(expected), "actual": _shape_text(actual)}
                message = (
                    f"{what} of {name!r} have shape {facts['actual']}, but must have {facts['expected']}"
                )
                raise _invalid_argument_error(
                    errors.Reason.SHAPE_MISMATCH, message, f"{field}.{what}", name, **facts
                )

    def _check_name(self, name: str, field: str) -> None:
        if name not in self._tensors:
            raise _invalid_argument_error(
                errors.Reason.UNKNOWN_TENSOR, f"the session has no tensor {name!r}", field, name
            )


def _check_shape(tensor: TensorInfo, value: ArrayLike, what: str) -> Array:
    field = f"{what}[{tensor.name!r}]"
    array = dtypes.as_array(value, dtypes.WIRE_DTYPES, field)
    if array.shape != tensor.shape:
        facts = {"expected": _shape_text(tensor.shape), "actual": _shape_text(array.shape)}
        message = "{name!r} has shape {actual}, but must have {expected}".format(name=tensor.name, **facts)
        raise _invalid_argument_error(errors.Reason.SHAPE_MISMATCH, message, field, tensor.name, **facts)
    return array


def _invalid_argument_error(
    reason: errors.Reason, message: str, field: str, tensor: str, **facts: str
) -> errors.InvalidArgument:
    """What the server would answer, without asking it."""
    metadata = {"tensor": tensor, **facts}
    return errors.InvalidArgument(message, reason=reason, field=field, metadata=metadata, applied=False)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(str(extent) for extent in shape) + "]"
