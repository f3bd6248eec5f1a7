"""Kullback-Leibler divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.arrays.ops import Ops, Value
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import CLIP, clip_probability, multiply_no_nan, zero_where_clipped


@dataclass(frozen=True)
class KLDivergence(ElementwiseLoss):
    """The sum over the last axis of

    y*(log(y) - log(p))    with y and p clipped to [1e-7, 1]  (Keras)
    y*(log(y) - p)         of logarithmic predictions  (PyTorch, optax); 0 where y is 0

    With ``log_target``, targets are log(y), and 0 stays 0.
    """

    averages: ClassVar[bool] = False

    log_prediction: bool = hyper(False, torch=True, optax=True)
    log_target: bool = hyper(False)

    def validate(self) -> None:
        if self.log_target and not self.log_prediction:
            raise conflict_error("log_target", "log_target needs log_prediction")

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        if self.log_target:
            return multiply_no_nan(ops, ops.exp(y), y - p)
        if self.log_prediction:
            return ops.where(y == 0, 0.0, y * (ops.log(y) - p))
        y, p = clip_probability(ops, y, CLIP, 1.0), clip_probability(ops, p, CLIP, 1.0)
        return y * ops.log(y / p)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        if self.log_prediction:
            return -ops.exp(y) if self.log_target else -y
        return zero_where_clipped(ops, p, -clip_probability(ops, y, CLIP, 1.0) / p, CLIP, 1.0)
