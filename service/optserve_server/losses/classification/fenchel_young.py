"""Fenchel-Young losses (Blondel et al., 2020, arXiv:1901.02324)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from optserve_server.activations.along_axis.softmax import softmax
from optserve_server.activations.along_axis.sparsemax import project_to_simplex
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats, Loss


class FenchelYoungRegularizer(StrEnum):
    """What makes the maximum over distributions smooth."""

    SHANNON = "SHANNON"
    GINI = "GINI"
    NONE = "NONE"


@dataclass(frozen=True)
class FenchelYoung(Loss):
    """max(q*p - r(q)) - y*p over distributions q along the last axis, where r(q) is

    sum(q*log(q))       SHANNON: the maximum is log(sum(exp(p))), at softmax(p)
    sum(q*(q - 1))/2    GINI: the maximum is at sparsemax(p)
    0                   NONE: the maximum is max(p); equal ones share the gradient

    The gradient is the q of the maximum, without y. As in optax, the regularizer of the
    target is left out, which is 0 for one-hot targets.
    """

    regularizer: FenchelYoungRegularizer = hyper(FenchelYoungRegularizer.SHANNON)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        top = np.max(prediction, axis=-1, keepdims=True, initial=-np.inf)
        below = prediction - np.where(np.isfinite(top), top, 0)
        asked = np.sum(target * prediction, axis=-1, dtype=np.float64)
        return np.where(np.isfinite(top), top, 0)[..., 0] + self._maximum(below) - asked

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        return self._distribution(prediction) - target

    def _maximum(self, below: Floats) -> Any:
        """The maximum of scores of which the largest is 0."""
        if self.regularizer is FenchelYoungRegularizer.SHANNON:
            return np.log(np.sum(np.exp(below), axis=-1, dtype=np.float64))
        if self.regularizer is FenchelYoungRegularizer.GINI:
            q = project_to_simplex(below, -1)
            return np.sum(q * (below + (1 - q) / 2), axis=-1, dtype=np.float64)
        return 0.0

    def _distribution(self, prediction: Floats) -> Floats:
        """The distribution of the maximum."""
        if self.regularizer is FenchelYoungRegularizer.SHANNON:
            return softmax(prediction, -1)
        if self.regularizer is FenchelYoungRegularizer.GINI:
            return project_to_simplex(prediction, -1)
        return share_maximum(prediction)


def share_maximum(scores: Floats) -> Floats:
    """1 at the maximum along the last axis, shared by equal ones."""
    top = scores == np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    shares: Floats = top / np.maximum(np.sum(top, axis=-1, keepdims=True), 1)
    return shares.astype(scores.dtype)
