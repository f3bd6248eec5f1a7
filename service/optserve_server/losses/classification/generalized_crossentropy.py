"""Generalized cross-entropy (Zhang and Sabuncu, 2018, arXiv:1805.07836)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_indices import ClassIndexLoss


@dataclass(frozen=True)
class GeneralizedCrossentropy(ClassIndexLoss):
    """(1 - p[y]^q)/q of probabilities along the last axis; the gradient at y is -p[y]^(q - 1).

    It nears cross-entropy as q nears 0, and is the absolute error at 1. Probabilities are
    neither renormalised nor clipped, as in Keras.
    """

    q: float = hyper(0.5, gt=0, lt=1)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        return np.expand_dims(self._check_indices(prediction, target), -1)

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        asked = np.take_along_axis(prediction, target, -1)[..., 0]
        return (1 - asked**self.q) / self.q

    def _sum_gradient(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        slope = np.zeros_like(prediction)
        asked = np.take_along_axis(prediction, target, -1)
        np.put_along_axis(slope, target, -(asked ** (self.q - 1)), -1)
        return slope
