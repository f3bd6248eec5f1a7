"""Base of cross-entropies over classes, against a distribution over classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.activations.along_axis.softmax import softmax, subtract_maximum
from optserve_server.arrays.ops import NumpyOps
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats, Loss, require_same_shape_dtype
from optserve_server.losses.class_weights import broadcast_factors, check_factor_count, validate_factors
from optserve_server.losses.probabilities import CLIP, multiply_no_nan


@dataclass(frozen=True)
class ClassLoss(Loss):
    """A loss along an axis of classes, against y smoothed to y*(1 - e) + e/classes.

    Predictions are logits (PyTorch, whose classes are on axis 1; optax) or probabilities
    (Keras). Class weights multiply the smoothed targets, as in PyTorch. Where all logits
    are -infinity, value and gradient are NaN, as in PyTorch.
    """

    from_logits: bool = hyper(False, torch=True, optax=True)
    axis: int = hyper(-1, torch=1)
    label_smoothing: float = hyper(0.0, ge=0, le=1)
    class_weights: tuple[float, ...] = hyper(())

    def validate(self) -> None:
        validate_factors("class_weights", self.class_weights)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_factor_count("class_weights", self.class_weights, shape[self.axis])

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        y = self._target_distributions(prediction, target)
        if self.label_smoothing:
            y = y * (1 - self.label_smoothing) + self.label_smoothing / max(prediction.shape[self.axis], 1)
        if self.class_weights:
            y = y * broadcast_factors(self.class_weights, y, self.axis)
        return y

    def _target_distributions(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        """The target as a distribution over the classes, of the prediction's dtype and shape."""
        return require_same_shape_dtype(prediction, target)


def crossentropy_from_logits(logits: Floats, target: Floats, axis: int) -> Floats:
    """-sum(target*log(softmax(logits))) along ``axis``, by log-sum-exp."""
    # A class that is not asked for may have probability 0.
    return -sum_over_axis(multiply_no_nan(NumpyOps(), target, log_softmax(logits, axis)), axis).squeeze(axis)


def crossentropy_from_logits_gradient(logits: Floats, target: Floats, axis: int) -> Floats:
    """softmax(logits)*sum(target) - target."""
    asked = sum_over_axis(target, axis).astype(logits.dtype)
    return softmax(logits, axis) * asked - target


def crossentropy_from_probabilities(prediction: Floats, target: Floats, axis: int) -> Floats:
    """-sum(target*log(clip(q))) along ``axis``, where q = prediction/sum(prediction)."""
    q = prediction / sum_over_axis(prediction, axis).astype(prediction.dtype)
    return -sum_over_axis(target * np.log(np.clip(q, CLIP, 1 - CLIP)), axis).squeeze(axis)


def crossentropy_from_probabilities_gradient(prediction: Floats, target: Floats, axis: int) -> Floats:
    """The gradient through q of a, which is -target/q and 0 where q is clipped."""
    q = prediction / sum_over_axis(prediction, axis).astype(prediction.dtype)
    return backpropagate_normalization(prediction, np.where(is_clipped(q), 0, -target / q), axis)


def backpropagate_normalization(prediction: Floats, slope: Floats, axis: int) -> Floats:
    """The gradient with respect to the prediction from that with respect to q:

    (a - sum(a*q))/sum(prediction), where q = prediction/sum(prediction).
    """
    whole = sum_over_axis(prediction, axis).astype(prediction.dtype)
    inner = sum_over_axis(slope * (prediction / whole), axis).astype(prediction.dtype)
    return (slope - inner) / whole


def is_clipped(q: Floats) -> npt.NDArray[np.bool_]:
    """Where clipping leaves no slope."""
    return (q < CLIP) | (q > 1 - CLIP)


def log_softmax(logits: Floats, axis: int) -> Floats:
    """log(softmax(logits)) along ``axis``."""
    below = subtract_maximum(logits, axis)
    whole: Floats = below - np.log(sum_over_axis(np.exp(below), axis)).astype(logits.dtype)
    return whole


def sum_over_axis(x: Floats, axis: int) -> Floats:
    """The sum along ``axis``, which is kept, in float64."""
    summed: Floats = np.sum(x, axis=axis, keepdims=True, dtype=np.float64)
    return summed
