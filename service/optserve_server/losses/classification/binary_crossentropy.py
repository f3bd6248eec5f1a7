"""Binary cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.class_weights import broadcast_factors, check_factor_count, validate_factors
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import (
    clip_probability,
    multiply_no_nan,
    sigmoid,
    softplus,
    zero_where_clipped,
)


@dataclass(frozen=True)
class BinaryLoss(ElementwiseLoss):
    """A loss of independent yes-or-no answers, with y smoothed to y*(1 - e) + e/2.

    Predictions are logits (PyTorch's ``with_logits``, optax) or probabilities (Keras).
    """

    from_logits: bool = hyper(False, torch=True, optax=True)
    label_smoothing: float = hyper(0.0, ge=0, le=1)
    axis: int = hyper(-1)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        y: Floats = super()._prepare_target(prediction, target)
        if not self.label_smoothing:
            return y
        smoothed: Floats = y * (1 - self.label_smoothing) + self.label_smoothing / 2
        return smoothed


@dataclass(frozen=True)
class BinaryCrossentropy(BinaryLoss):
    """-w*y*log(p) - (1 - y)*log(1 - p), the mean over an axis, where p is

    sigmoid(prediction)    from logits
    prediction             otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    and w the weight of positive targets, which PyTorch calls pos_weight: one, times one for
    each place along the axis.
    """

    positive_weight: float = hyper(1.0, ge=0)
    positive_weights: tuple[float, ...] = hyper(())

    def validate(self) -> None:
        validate_factors("positive_weights", self.positive_weights)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_factor_count("positive_weights", self.positive_weights, shape[self.axis])

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        of = crossentropy_from_logits if self.from_logits else crossentropy_from_probabilities
        return of(ops, p, self._positive_factor(y) * y, 1 - y)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        of = (
            crossentropy_from_logits_derivative
            if self.from_logits
            else crossentropy_from_probabilities_derivative
        )
        return of(ops, p, self._positive_factor(y) * y, 1 - y)

    def _positive_factor(self, y: Value) -> Value:
        """w: a number, or an array that broadcasts to ``y`` where each place has its own."""
        if not self.positive_weights:
            return self.positive_weight
        return self.positive_weight * broadcast_factors(self.positive_weights, y, self.axis)


def crossentropy_from_logits(ops: Ops, z: Value, yes: Value, no: Value) -> Value:
    """-yes*log(sigmoid(z)) - no*log(1 - sigmoid(z)), by log-sum-exp."""
    return multiply_no_nan(ops, yes, softplus(ops, -z)) + multiply_no_nan(ops, no, softplus(ops, z))


def crossentropy_from_logits_derivative(ops: Ops, z: Value, yes: Value, no: Value) -> Value:
    """no*sigmoid(z) - yes*sigmoid(-z)."""
    return no * sigmoid(ops, z) - yes * sigmoid(ops, -z)


def crossentropy_from_probabilities(ops: Ops, p: Value, yes: Value, no: Value) -> Value:
    """-yes*log(p) - no*log(1 - p) with p clipped."""
    clipped = clip_probability(ops, p)
    return -(yes * ops.log(clipped) + no * ops.log(1 - clipped))


def crossentropy_from_probabilities_derivative(ops: Ops, p: Value, yes: Value, no: Value) -> Value:
    """no/(1 - p) - yes/p, and 0 where p is clipped."""
    return zero_where_clipped(ops, p, no / (1 - p) - yes / p)
