"""Cosine embedding loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.embedding.distances import cosine_from_squares
from optserve_server.losses.stacked import StackedLoss, stack_parts

EPSILON = 1e-12
"""Added to squared lengths, as in PyTorch."""


@dataclass(frozen=True)
class CosineEmbedding(StackedLoss):
    """With c = a*b/sqrt((|a|^2 + 1e-12)*(|b|^2 + 1e-12)),

    1 - c                where y is 1
    max(c - margin, 0)   where y is -1, and 0 for any other target

    Predictions are vectors a and b, stacked: [..., 2, n]; targets are [...].
    """

    parts: ClassVar[int] = 2

    margin: float = hyper(0.0, ge=-1, le=1)

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:-2]

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        cosine = cosine_from_squares(prediction[..., 0, :], prediction[..., 1, :], EPSILON).value
        apart = np.where(target == -1, np.maximum(cosine - self.margin, 0), 0)
        return np.where(target == 1, 1 - cosine, apart)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        found = cosine_from_squares(prediction[..., 0, :], prediction[..., 1, :], EPSILON)
        apart = np.where((target == -1) & (found.value > self.margin), 1, 0)
        sign = np.where(target == 1, -1, apart)[..., None]
        return stack_parts(sign * found.first, sign * found.second)
