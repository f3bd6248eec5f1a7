"""Circle loss (Sun et al., 2020, arXiv:2002.10857)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.ops import NumpyOps
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.coupled import CoupledLoss, log_sum_exp, matching_pairs, product
from optserve_server.losses.probabilities import softplus


@dataclass(frozen=True)
class Circle(CoupledLoss):
    """log(1 + sum(exp(gamma*(d^2 - m^2)))*sum(exp(gamma*((1 - d)^2 - m^2)))) for each example, where

    d = max(1 - u*v, 0) is the cosine distance to another embedding of length 1, m the
    margin, the first sum over the examples of the same class and the second over the others.
    A distance of more than 1 + m counts in the second as 1 + m.

    Embeddings must have the length 1. Examples without one of the same class or without one
    of another count as 0 and in no mean.
    """

    gamma: float = hyper(80.0, gt=0)
    margin: float = hyper(0.4, ge=0)
    remove_diagonal: bool = hyper(True)

    def find_ignored_examples(self, target: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        same, other = self._pairs(target)
        return np.asarray(~(same.any(axis=1) & other.any(axis=1)))

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        total = self._logit(self._distances(prediction), *self._pairs(target))[0]
        return softplus(NumpyOps(), total)

    def _compute_weighted_gradient(
        self, prediction: Floats, target: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> Any:
        similarity = product(prediction, prediction.T)
        distance = np.maximum(1 - similarity, 0)
        same, other = self._pairs(target)
        total, near, far = self._logit(distance, same, other)
        steep = weights / (1 + np.exp(-total))
        by_near = np.where(same, np.exp(self._near(distance) - near[:, None]) * 2 * distance, 0)
        inside = other & (distance < 1 + self.margin)
        by_far = np.where(inside, np.exp(self._far(distance) - far[:, None]) * 2 * (distance - 1), 0)
        slope = np.where(similarity < 1, -self.gamma * steep[:, None] * (by_near + by_far), 0)
        slope = np.where(np.isfinite(slope), slope, 0)  # rows without a pair, which are ignored
        return product(slope + slope.T, prediction)

    def _pairs(self, target: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Pairs of the same class, and of others."""
        match = matching_pairs(target)
        same = match & ~np.eye(len(target), dtype=bool) if self.remove_diagonal else match
        return same, ~match

    def _distances(self, prediction: Floats) -> npt.NDArray[Any]:
        return np.maximum(1 - product(prediction, prediction.T), 0)

    def _near(self, distance: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(self.gamma * (distance * distance - self.margin * self.margin))

    def _far(self, distance: npt.NDArray[Any]) -> npt.NDArray[Any]:
        held = np.maximum(1 + self.margin - distance, 0)
        return np.asarray(self.gamma * held * (1 - self.margin - distance))

    def _logit(
        self, distance: npt.NDArray[Any], same: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """The sum of the logarithms of both sums, and each."""
        near, far = log_sum_exp(self._near(distance), same), log_sum_exp(self._far(distance), other)
        return near + far, near, far
