"""Dice loss of masks (Sudre et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.losses.base import Floats
from optserve_server.losses.segmentation.overlap_loss import OverlapLoss


@dataclass(frozen=True)
class Dice(OverlapLoss):
    """1 - 2*sum(y*p)/(sum(y) + sum(p) + epsilon), with sums over the axes.

    The gradient is (r - 2*y)/divisor, where r is the ratio.
    """

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        ratio, _ = self._ratio_and_divisor(prediction, target)
        return (1 - ratio).squeeze(self._example_axes(prediction.ndim))

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        ratio, below = self._ratio_and_divisor(prediction, target)
        return (ratio - 2 * target) / below

    def _ratio_and_divisor(self, prediction: Floats, target: Floats) -> tuple[Floats, Floats]:
        below = self._sum(target) + self._sum(prediction) + self.epsilon
        return 2 * self._sum(target * prediction) / below, below
