"""Triplet margin loss (Balntas et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.embedding.distances import PairValue, cosine_from_lengths, minkowski_distance
from optserve_server.losses.stacked import StackedLoss, stack_parts


class TripletDistance(StrEnum):
    """What triplets are compared by."""

    MINKOWSKI = "MINKOWSKI"
    COSINE = "COSINE"


@dataclass(frozen=True)
class TripletMargin(StackedLoss):
    """max(d(a, p) - d(a, n) + margin, 0) of anchors a, positives p and negatives n, where d is

    sum(|u - v + epsilon|^degree)^(1/degree)     MINKOWSKI (PyTorch)
    (sum(|u - v|^degree) + epsilon)^(1/degree)   MINKOWSKI with epsilon_in_sum (optax)
    1 - u*v/(|u|*|v|)                            COSINE; lengths are at least epsilon

    Predictions are the three vectors, stacked: [..., 3, n]; the target is empty. With
    ``swap``, d(p, n) takes the place of d(a, n) where it is smaller.
    """

    parts: ClassVar[int] = 3

    margin: float = hyper(1.0, ge=0)
    distance: TripletDistance = hyper(TripletDistance.MINKOWSKI)
    degree: float = hyper(2.0, ge=1, le=64)
    epsilon: float = hyper(1e-6, ge=1e-30)
    epsilon_in_sum: bool = hyper(False, optax=True)
    swap: bool = hyper(False)

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (0,)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        near, far, _ = self._distances(prediction)
        return np.maximum(near.value - far.value + self.margin, 0)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        near, far, swapped = self._distances(prediction)
        above = (near.value - far.value + self.margin > 0)[..., None]
        taken = swapped[..., None]
        anchor = near.first - np.where(taken, 0, far.first)
        positive = near.second - np.where(taken, far.first, 0)
        return np.where(above[..., None], stack_parts(anchor, positive, -far.second), 0)

    def _distances(self, prediction: Floats) -> tuple[PairValue, PairValue, Any]:
        """The distance to the positive, that to the negative, and where the latter starts at the positive."""
        anchor, positive, negative = (prediction[..., part, :] for part in range(3))
        near, far = self._distance(anchor, positive), self._distance(anchor, negative)
        if not self.swap:
            return near, far, np.zeros(far.value.shape, np.bool_)
        other = self._distance(positive, negative)
        swapped = other.value < far.value
        chosen = PairValue(
            np.where(swapped, other.value, far.value),
            np.where(swapped[..., None], other.first, far.first),
            np.where(swapped[..., None], other.second, far.second),
        )
        return near, chosen, swapped

    def _distance(self, a: Floats, b: Floats) -> PairValue:
        if self.distance is TripletDistance.MINKOWSKI:
            return minkowski_distance(a, b, self.degree, self.epsilon, self.epsilon_in_sum)
        cosine = cosine_from_lengths(a, b, self.epsilon)
        return PairValue(1 - cosine.value, -cosine.first, -cosine.second)
