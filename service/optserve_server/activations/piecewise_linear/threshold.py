"""A constant below a threshold."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Threshold(ElementwiseActivation):
    """x where x > threshold, otherwise value. The derivative at the threshold is 0."""

    threshold: float = hyper(0.0)
    value: float = hyper(0.0)

    def forward(self, ops: Ops, x: Value) -> Value:
        return ops.where(x <= self.threshold, self.value, x)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > self.threshold, dy, 0.0)
