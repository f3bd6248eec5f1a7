"""Huber's loss (1964)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class Huber(ElementwiseLoss):
    """With e = p - y, the mean over the last axis of

    e^2/2                        where |e| <= delta
    delta*|e| - delta^2/2        otherwise

    The derivative is e, held to [-delta, delta].
    """

    delta: float = hyper(1.0, gt=0)

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        size = ops.abs(p - y)
        near = ops.minimum(size, self.delta)
        return near * (size - 0.5 * near)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.maximum(ops.minimum(p - y, self.delta), -self.delta)
