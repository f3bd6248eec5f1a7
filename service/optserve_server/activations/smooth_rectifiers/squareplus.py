"""Squareplus (Barron, 2021, arXiv:2112.11687)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Squareplus(ElementwiseActivation):
    """(x + sqrt(x^2 + b))/2 = max(x, 0) + b/(2*(r + |x|)) with r = sqrt(x^2 + b).

    The derivative is s = b/(2*r*(r + |x|)) left of 0 and 1 - s right of it. So nothing
    cancels on the left, and a square that overflows leaves max(x, 0).
    """

    b: float = hyper(4.0, ge=1e-30, le=1e30)

    def forward(self, ops: Ops, x: Value) -> Value:
        a = ops.abs(x)
        return ops.maximum(x, 0.0) + self.b / 2 / (ops.sqrt(a * a + self.b) + a)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        a = ops.abs(x)
        r = ops.sqrt(a * a + self.b)
        s = self.b / 2 / r / (r + a)
        return dy * ops.where(x > 0, 1 - s, s)
