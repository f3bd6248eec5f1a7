"""The negative log-likelihood of counts under a Poisson distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import multiply_no_nan


@dataclass(frozen=True)
class Poisson(ElementwiseLoss):
    """The mean over the last axis of

    p - y*log(p + epsilon)    of rates  (Keras)
    exp(p) - y*p              of logarithms of rates  (PyTorch)

    ``full`` adds Stirling's approximation of log(y!), y*log(y) - y + log(2*pi*y)/2, where y > 1.
    """

    log_prediction: bool = hyper(False, torch=True)
    epsilon: float = hyper(1e-7, torch=1e-8, ge=0)
    full: bool = hyper(False)

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        if self.log_prediction:
            value = ops.exp(p) - multiply_no_nan(ops, y, p)
        else:
            value = p - multiply_no_nan(ops, y, ops.log(p + self.epsilon))
        return value + _stirling(ops, y) if self.full else value

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        if self.log_prediction:
            return ops.exp(p) - y
        return 1 - multiply_no_nan(ops, y, 1 / (p + self.epsilon))


def _stirling(ops: Ops, y: Value) -> Value:
    above = ops.maximum(y, 1.0)
    log_factorial = (above + 0.5) * ops.log(above) - above + 0.5 * math.log(2 * math.pi)
    return ops.where(y > 1, log_factorial, 0.0)
