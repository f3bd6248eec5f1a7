"""The input without its hyperbolic tangent."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class TanhShrink(ElementwiseActivation):
    """x - tanh(x). The derivative is tanh(x)^2."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return x - ops.tanh(x)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        t = ops.tanh(x)
        return dy * (t * t)
