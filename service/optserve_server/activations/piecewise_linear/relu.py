"""The rectifier."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class ReLU(ElementwiseActivation):
    """x where x > threshold, otherwise negative_slope*(x - threshold). The derivative at 0 is 0.

    With ``max_value``, the first part is held to [0, max_value], as in Keras; the derivative
    at max_value is 0. At the threshold it is negative_slope.
    """

    max_value: float | None = hyper(None, ge=0)
    negative_slope: float = hyper(0.0, ge=0)
    threshold: float = hyper(0.0)

    def forward(self, ops: Ops, x: Value) -> Value:
        limit = self.threshold
        above = ops.where(x <= limit, 0.0, x) if limit else ops.maximum(x, 0.0)
        if self.max_value is not None:
            above = ops.minimum(ops.maximum(above, 0.0), self.max_value)
        if self.negative_slope == 0:  # 0*x would be nan at -infinity
            return above
        return above - self.negative_slope * ops.maximum(self.threshold - x, 0.0)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        inside = dy
        if self.max_value is not None:
            inside = ops.where(x > 0, ops.where(x < self.max_value, dy, 0.0), 0.0)
        below = self.negative_slope * dy if self.negative_slope else 0.0
        return ops.where(x > self.threshold, inside, below)
