"""The logistic function."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class Sigmoid(ElementwiseActivation):
    """1/(1 + exp(-x)), from e = exp(-|x|), which never overflows:

    1/(1 + e) right of 0, e/(1 + e) left of it; the derivative is e/(1 + e)^2.
    """

    def forward(self, ops: Ops, x: Value) -> Value:
        e = ops.exp(-ops.abs(x))
        return ops.where(x >= 0, 1 / (1 + e), e / (1 + e))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        e = ops.exp(-ops.abs(x))
        return dy * (e / ((1 + e) * (1 + e)))
