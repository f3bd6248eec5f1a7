"""Squared hinge loss."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.margin.hinge import MarginLoss


@dataclass(frozen=True)
class SquaredHinge(MarginLoss):
    """max(1 - y*p, 0)^2, the mean over the last axis; the derivative is -2*y*max(1 - y*p, 0)."""

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        margin = ops.maximum(1 - y * p, 0.0)
        return margin * margin

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return -2 * y * ops.maximum(1 - y * p, 0.0)
