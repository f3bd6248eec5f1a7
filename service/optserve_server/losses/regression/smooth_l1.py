"""Smooth L1 (Girshick, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class SmoothL1(ElementwiseLoss):
    """Huber's loss with delta = beta, divided by beta. With e = p - y, the mean over the last axis of

    e^2/(2*beta)    where |e| < beta
    |e| - beta/2    otherwise

    A beta of 0, or one that rounds to 0 in the prediction's dtype, gives |e|.
    """

    beta: float = hyper(1.0, ge=0)

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        size = ops.abs(p - y)
        return ops.where(size < self.beta, size * size / (2 * self.beta), size - self.beta / 2)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        error = p - y
        # Divides by beta inside its range alone, which is empty if beta is 0 or rounds to it.
        return ops.where(ops.abs(error) >= self.beta, ops.sign(error), error / self.beta)
