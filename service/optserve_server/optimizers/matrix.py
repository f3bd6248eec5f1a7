"""Rules that see a tensor as a matrix rather than as so many elements."""

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
            numbers: what `scalars` gave, float64.
            kept: what decoupled decay leaves of the parameter, 1 - lr*wd.

        Returns:
            The new parameter and the new state.
        """
