"""The rectifier."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class ReLU(ElementwiseActivation):
    """max(x, 0). The derivative at 0 is 0."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.maximum(x, 0.0)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > 0, dy, 0.0)
