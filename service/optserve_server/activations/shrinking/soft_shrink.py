"""Soft shrinkage."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class SoftShrink(ElementwiseActivation):
    """x nearer to 0 by threshold, and 0 from there. The derivative at the threshold is 0."""

    threshold: float = hyper(0.5, ge=0)

    def forward(self, ops: Ops, x: Value) -> Value:
        return x - ops.minimum(ops.maximum(x, -self.threshold), self.threshold)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(ops.abs(x) <= self.threshold, 0.0, dy)
