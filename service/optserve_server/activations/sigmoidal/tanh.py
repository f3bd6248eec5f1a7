"""The hyperbolic tangent."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class Tanh(ElementwiseActivation):
    """tanh(x). The derivative is 4e/(1 + e)^2 with e = exp(-2|x|).

    1 - tanh(x)^2 is the same, but loses all its digits where tanh(x) is near 1.
    """

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.tanh(x)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        e = ops.exp(-2 * ops.abs(x))
        return dy * (4 * e / ((1 + e) * (1 + e)))
