"""Base of losses that are a function of each element and its target, reduced along an axis."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.ops import NumpyOps, Ops, Value
from optserve_server.losses.base import Floats, Loss


@dataclass(frozen=True)
class ElementwiseLoss(Loss):
    """The mean over an axis, the last one unless there is a choice, of straight-line arithmetic.

    Attributes:
        averages: whether it is the mean rather than the sum.
    """

    averages: ClassVar[bool] = True

    @abstractmethod
    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        """The loss of one element."""

    @abstractmethod
    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        """Its derivative with respect to ``p``."""

    def total_weight(self, target: npt.NDArray[Any], sample_weight: Floats | None) -> float | None:
        """The sum of the examples' weights; that of an example's elements is the mean of theirs."""
        total = super().total_weight(target, sample_weight)
        if total is None or sample_weight is None or sample_weight.ndim < target.ndim:
            return total
        return float(total / max(sample_weight.shape[self._axis], 1))

    def _example_losses(self, prediction: Floats, target: Any) -> Any:
        return self._reduce(self._element_values(prediction, target))

    def _weigh_losses(self, prediction: Floats, target: Any, sample_weight: Floats | None) -> Any:
        if sample_weight is None or sample_weight.ndim < prediction.ndim:
            return super()._weigh_losses(prediction, target, sample_weight)
        return self._reduce(self._element_values(prediction, target) * sample_weight)

    def _sum_gradient(self, prediction: Floats, target: Any) -> Any:
        return self._element_derivatives(prediction, target) / self._mean_divisor(prediction)

    def _element_values(self, prediction: Floats, target: Any) -> Any:
        return self.value(NumpyOps(), prediction, target)

    def _element_derivatives(self, prediction: Floats, target: Any) -> Any:
        return self.derivative(NumpyOps(), prediction, target)

    def _reduce(self, values: Floats) -> Any:
        """The sum along the axis in float64, or the mean."""
        return np.sum(values, axis=self._axis, dtype=np.float64) / self._mean_divisor(values)

    def _mean_divisor(self, values: Floats) -> int:
        """What the sum along the axis is divided by."""
        return max(values.shape[self._axis], 1) if self.averages else 1

    def _weight_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (*super()._weight_shapes(shape), shape)

    @property
    def _axis(self) -> int:
        """The axis that is summed over."""
        return getattr(self, "axis", -1)
