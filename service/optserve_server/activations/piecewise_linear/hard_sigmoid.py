"""The hard sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class HardSigmoid(ElementwiseActivation):
    """x/6 + 1/2, cut off at 0 and 1 (Keras 3). The derivative at -3 and 3 is 0."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.minimum(ops.maximum(x + 3, 0.0), 6.0) / 6

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > -3, ops.where(x < 3, dy / 6, 0.0), 0.0)
