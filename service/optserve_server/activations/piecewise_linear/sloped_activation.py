"""Rectifiers with a slope of its own for each element left of 0."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from optserve_server.activations.base import Activation, Floats
from optserve_server.arrays.ops import NumpyOps, Ops, Value


@dataclass(frozen=True)
class SlopedActivation(Activation):
    """x where x > 0, otherwise slope*x. The derivative at 0 is the slope."""

    @abstractmethod
    def compute_negative_slopes(self, x: Floats, slope: Floats | None) -> Floats:
        """The slopes of ``x``, of its dtype; they broadcast to it."""

    def forward(self, ops: Ops, x: Value, slope: Value) -> Value:
        """The activation of one element."""
        sloped = ops.where(x > 0, x, slope * x)
        return ops.where(slope == 0, ops.maximum(x, 0.0), sloped)  # 0*x would be nan at -infinity

    def gradient(self, ops: Ops, x: Value, dy: Value, slope: Value) -> Value:
        """The derivative at one element, times ``dy``."""
        return ops.where(x > 0, dy, slope * dy)

    def _forward(self, x: Floats, slope: Floats | None) -> Any:
        return self.forward(NumpyOps(), x, self.compute_negative_slopes(x, slope))

    def _backward(self, x: Floats, dy: Floats, slope: Floats | None) -> Any:
        return self.gradient(NumpyOps(), x, dy, self.compute_negative_slopes(x, slope))
