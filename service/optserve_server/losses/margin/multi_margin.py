"""Multi-class margin loss (Weston and Watkins, 1999)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_indices import ClassIndexLoss
from optserve_server.losses.class_weights import check_factor_count, validate_factors


@dataclass(frozen=True)
class MultiMargin(ClassIndexLoss):
    """w[y]*sum(h_i^degree)/classes over the classes i other than y, along the last axis, where

    h_i = max(margin - p[y] + p[i], 0)

    The gradient is w[y]*degree*h_i^(degree - 1)/classes where h_i is above 0, and at y the
    negated sum of the others.
    """

    degree: int = hyper(1, allowed=(1, 2))
    margin: float = hyper(1.0)
    class_weights: tuple[float, ...] = hyper(())

    def validate(self) -> None:
        validate_factors("class_weights", self.class_weights)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_factor_count("class_weights", self.class_weights, shape[-1])

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        return np.expand_dims(self._check_indices(prediction, target), -1)

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        excess = self._excess(prediction, target)
        terms = excess if self.degree == 1 else excess * excess
        return np.sum(terms, axis=-1, dtype=np.float64) * self._scale(prediction, target)[..., 0]

    def _sum_gradient(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        excess = self._excess(prediction, target)
        slope = (excess > 0).astype(prediction.dtype) if self.degree == 1 else 2 * excess
        others = np.sum(slope, axis=-1, keepdims=True, dtype=np.float64)
        np.put_along_axis(slope, target, -others, -1)
        return slope * self._scale(prediction, target)

    def _excess(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """h, 0 at the asked class."""
        asked = np.take_along_axis(prediction, target, -1)
        excess: Floats = np.maximum(self.margin - asked + prediction, 0)
        np.put_along_axis(excess, target, 0, -1)
        return excess

    def _scale(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """w[y]/classes."""
        classes = max(prediction.shape[-1], 1)
        if not self.class_weights:
            return np.full(target.shape, 1 / classes, prediction.dtype)
        weights = np.array(self.class_weights) / classes
        return np.asarray(weights[target], prediction.dtype)
