"""The rectifier that ends at 6 (Krizhevsky, 2010)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class ReLU6(ElementwiseActivation):
    """min(max(x, 0), 6). The derivative at 0 and 6 is 0."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.minimum(ops.maximum(x, 0.0), 6.0)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > 0, ops.where(x < 6, dy, 0.0), 0.0)
