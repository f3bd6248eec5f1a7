"""Base class of layers of a described network: output shape and costs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from optserve_server.errors import DomainError, Reason, mismatch_error, out_of_range_error
from optserve_server.hyperparameters import Algorithm

Shape: TypeAlias = tuple[int, ...]
"""Extents of one example, outermost first, channels last, without the batch."""

MAX_EXTENT = 1_000_000_000
"""The largest extent that may be stated."""


@dataclass(frozen=True)
class Cost:
    """What a layer takes for one example, counted in whole numbers.

    Attributes:
        output: shape of its output.
        tensors: shapes of the parameters that an optimizer changes, as Keras makes and orders them.
        non_trainable: parameters that it does not.
        multiply_adds: products that are added into a sum, as in matrix products and
            convolutions. Element-wise arithmetic has none.
        operations: every other floating-point operation, each 1: an addition, a product,
            a quotient, a comparison, a function.
        is_view: whether the output is the input's memory.
    """

    output: Shape
    tensors: tuple[Shape, ...] = ()
    non_trainable: int = 0
    multiply_adds: int = 0
    operations: int = 0
    is_view: bool = False

    @property
    def trainable_parameters(self) -> int:
        """How many parameters an optimizer changes."""
        return sum(map(math.prod, self.tensors))


@dataclass(frozen=True)
class Layer(Algorithm):
    """One kind of layer. Its docstring gives its counts, for one example in inference."""

    @abstractmethod
    def cost(self, shape: Shape) -> Cost:
        """What the layer takes for an input of ``shape``.

        Raises:
            DomainError: SHAPE_MISMATCH if such an input does not fit the layer, without
                a field or with that of the hyperparameter which it does not fit.
        """


def check_extents(values: Sequence[int], field: str) -> None:
    """Checks that every extent of a list lies in [1, `MAX_EXTENT`].

    Raises:
        DomainError: OUT_OF_RANGE, naming the element.
    """
    for index, value in enumerate(values):
        if not 1 <= value <= MAX_EXTENT:
            raise out_of_range_error(f"{field}[{index}]", value, f"in [1, {MAX_EXTENT}]")


def require_rank(shape: Shape, allowed: range, what: str) -> None:
    """Checks the number of an input's dimensions; ``what`` says in words what it must be.

    Raises:
        DomainError: SHAPE_MISMATCH, without a field.
    """
    if len(shape) not in allowed:
        raise shape_mismatch_error(f"the input is {format_shape(shape)}, but must be {what}", what, shape)


def shape_mismatch_error(message: str, expected: str, actual: Shape, field: str | None = None) -> DomainError:
    """The error for an input that a layer cannot take."""
    return mismatch_error(Reason.SHAPE_MISMATCH, field, expected, format_shape(actual), message)


def format_shape(shape: Shape) -> str:
    """A shape as clients read it: ``[28,28,1]``."""
    return "[" + ",".join(map(str, shape)) + "]"
