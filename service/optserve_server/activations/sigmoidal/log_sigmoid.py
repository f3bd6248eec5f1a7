"""The logarithm of the logistic function."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class LogSigmoid(ElementwiseActivation):
    """-log(1 + exp(-x)) = min(x, 0) - log(1 + e) with e = exp(-|x|).

    The derivative is e/(1 + e) right of 0 and 1/(1 + e) left of it.
    """

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.minimum(x, 0.0) - ops.log1p(ops.exp(-ops.abs(x)))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        e = ops.exp(-ops.abs(x))
        return dy * ops.where(x > 0, e / (1 + e), 1 / (1 + e))
