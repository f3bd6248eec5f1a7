"""Softsign."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value

FAR = 1e30
"""Where x/(1 + |x|) is 1 in float32 and float64 alike."""


@dataclass(frozen=True)
class Softsign(ElementwiseActivation):
    """x/(1 + |x|). The derivative is 1/(1 + |x|)^2."""

    def forward(self, ops: Ops, x: Value) -> Value:
        finite = ops.minimum(ops.maximum(x, -FAR), FAR)
        return finite / (1 + ops.abs(finite))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        r = 1 / (1 + ops.abs(x))
        return dy * (r * r)
