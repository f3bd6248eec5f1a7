"""Margin ranking loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.stacked import StackedLoss, mean_over_last_axis, stack_parts


@dataclass(frozen=True)
class MarginRanking(StackedLoss):
    """max(margin - y*(a - b), 0), the mean over the last axis; the gradient is -y and y where above 0.

    Predictions are scores a and b, stacked: [..., 2, n]. Targets [..., n] are 1 where a
    should rank higher, and -1 where b should.
    """

    parts: ClassVar[int] = 2

    margin: float = hyper(0.0)

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1])

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        return mean_over_last_axis(np.maximum(self._excess(prediction, target), 0))

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        slope = np.where(self._excess(prediction, target) > 0, target, 0)
        return stack_parts(-slope, slope) / max(prediction.shape[-1], 1)

    def _excess(self, prediction: Floats, target: Floats) -> Floats:
        excess: Floats = self.margin - target * (prediction[..., 0, :] - prediction[..., 1, :])
        return excess
