"""Rules that treat a tensor as a matrix rather than element by element."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optserve_server.optimizers.base import Rule

Matrix = Any
"""A shaped array of NumPy or CuPy."""


@dataclass(frozen=True)
class MatrixRule(Rule):
    """A rule over whole tensors, written over the array module of the backend.

    Its state has shapes of its own for each tensor.

    Attributes:
        all_slots: the names that `tensor_slots` may give.
    """

    all_slots: ClassVar[tuple[str, ...]]

    @property
    def slot_names(self) -> tuple[str, ...]:
        return self.all_slots

    def state_elements(self, shape: tuple[int, ...]) -> int:
        return sum(math.prod(of_slot) for of_slot in self.tensor_slots(shape).values())

    @property
    def state_shape_hyperparameters(self) -> tuple[object, ...]:
        """The hyperparameters on which the shapes of its state depend."""
        return ()

    @abstractmethod
    def tensor_slots(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """The state of a tensor of this shape: each slot's shape. All begin with zeros."""

    @abstractmethod
    def step(
        self,
        xp: Any,
        p: Matrix,
        g: Matrix,
        slots: Mapping[str, Matrix],
        numbers: Mapping[str, float],
        kept: float,
    ) -> tuple[Matrix, dict[str, Matrix]]:
        """One step on one tensor; changes none of its arguments.

        Args:
            xp: the array module, NumPy or CuPy.
            p: the parameter.
            g: the preprocessed gradient, of its shape and dtype.
            slots: the state.
            numbers: what `compute_scalars` gave, float64.
            kept: what decoupled decay leaves of the parameter, 1 - lr*wd.

        Returns:
            The new parameter and the new state.
        """


def norm(xp: Any, x: Matrix) -> float:
    """The Euclidean norm sqrt(sum(x^2)) of all elements, summed in float64.

    The elements are scaled by a power of two first, so that no square overflows or vanishes,
    however large or small they are.

    Args:
        xp: the array module.
        x: an array of any shape and floating dtype.

    Returns:
        The norm; NaN or infinity where an element is.
    """
    largest = float(xp.max(xp.abs(x))) if x.size else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    scaled = x / scale
    return scale * math.sqrt(float(xp.sum(scaled * scaled, dtype=xp.float64)))
