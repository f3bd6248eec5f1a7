"""Base of losses that are a function of each element and its target, reduced along an axis."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        values = self.value(NumpyOps(), prediction, target)
        return np.sum(values, axis=self._example_axis, dtype=np.float64) / self._mean_divisor(prediction)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        return self.derivative(NumpyOps(), prediction, target) / self._mean_divisor(prediction)

    def _mean_divisor(self, prediction: Floats) -> int:
        """What the sum along the axis is divided by."""
        return max(prediction.shape[self._example_axis], 1) if self.averages else 1
