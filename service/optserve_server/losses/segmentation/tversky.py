"""Tversky loss of masks (Salehi et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.segmentation.overlap_loss import OverlapLoss


@dataclass(frozen=True)
class Tversky(OverlapLoss):
    """1 - i/(i + alpha*sum(y*(1 - p)) + beta*sum(p*(1 - y)) + epsilon), with i = sum(y*p).

    Sums are over the axes. alpha weighs what is missed, beta what is found wrongly.
    """

    alpha: float = hyper(0.5, ge=0)
    beta: float = hyper(0.5, ge=0)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        overlap, below = self._overlap_and_divisor(prediction, target)
        return (1 - overlap / below).squeeze(self._example_axes(prediction.ndim))

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        """(r*(y - alpha*y + beta*(1 - y)) - y)/divisor, where r is the ratio."""
        overlap, below = self._overlap_and_divisor(prediction, target)
        rise = target * (1 - self.alpha) + self.beta * (1 - target)
        return ((overlap / below) * rise - target) / below

    def _overlap_and_divisor(self, prediction: Floats, target: Floats) -> tuple[Floats, Floats]:
        overlap = self._sum(target * prediction)
        missed, wrong = self._sum((1 - prediction) * target), self._sum(prediction * (1 - target))
        return overlap, overlap + self.alpha * missed + self.beta * wrong + self.epsilon
