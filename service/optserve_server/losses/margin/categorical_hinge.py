"""Categorical hinge loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.arrays.ops import NumpyOps
from optserve_server.losses.base import Floats, Loss
from optserve_server.losses.probabilities import multiply_no_nan


@dataclass(frozen=True)
class CategoricalHinge(Loss):
    """max(0, 1 + max((1 - y)*p) - sum(y*p)) over the last axis.

    Where it is above 0, the gradient is (1 - y)*t - y, where t shares 1 among the equal maxima.
    """

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        return np.maximum(_margin(prediction, target), 0)[..., 0]

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        others = _wrong_class_scores(prediction, target)
        top = others == np.max(others, axis=-1, keepdims=True, initial=-np.inf)
        shares = top / np.maximum(np.sum(top, axis=-1, keepdims=True), 1)
        slope = (1 - target) * shares.astype(prediction.dtype) - target
        return np.where(_margin(prediction, target) > 0, slope, 0)


def _wrong_class_scores(prediction: Floats, target: Floats) -> Floats:
    """(1 - y)*p: what the asked class is held against."""
    others: Floats = multiply_no_nan(NumpyOps(), 1 - target, prediction)
    return others


def _margin(prediction: Floats, target: Floats) -> Floats:
    """1 + max((1 - y)*p) - sum(y*p), the last axis kept."""
    best = np.max(_wrong_class_scores(prediction, target), axis=-1, keepdims=True, initial=-np.inf)
    asked = np.sum(multiply_no_nan(NumpyOps(), target, prediction), axis=-1, keepdims=True, dtype=np.float64)
    margin: Floats = best - asked + 1
    return margin
