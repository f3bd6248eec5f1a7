"""The negative log-likelihood of a normal distribution with predicted variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.stacked import StackedLoss, mean_over_last_axis, stack_parts


@dataclass(frozen=True)
class GaussianNLL(StackedLoss):
    """(log(v) + (p - y)^2/v)/2, the mean over the last axis, with v = max(variance, epsilon).

    Predictions are means p and variances, stacked: [..., 2, n]. ``full`` adds log(2*pi)/2.
    The gradient with respect to the variance is that with respect to v, below epsilon as
    well, as in PyTorch: (1/v - (p - y)^2/v^2)/2.
    """

    parts: ClassVar[int] = 2

    full: bool = hyper(False)
    epsilon: float = hyper(1e-6, ge=1e-30)

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1])

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        error, v = self._error_and_variance(prediction, target)
        values = 0.5 * (np.log(v) + error * error / v)
        return mean_over_last_axis(values + 0.5 * math.log(2 * math.pi) if self.full else values)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        error, v = self._error_and_variance(prediction, target)
        ratio = error / v
        return stack_parts(ratio, 0.5 * (1 / v - ratio * ratio)) / max(prediction.shape[-1], 1)

    def _error_and_variance(self, prediction: Floats, target: Floats) -> tuple[Floats, Floats]:
        return prediction[..., 0, :] - target, np.maximum(prediction[..., 1, :], self.epsilon)
