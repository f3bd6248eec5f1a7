"""Perceptron loss (Rosenblatt, 1958)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class Perceptron(ElementwiseLoss):
    """max(-y*p, 0), the mean over the last axis; the derivative is -y where it is above 0.

    Targets are -1 and 1.
    """

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.maximum(-(y * p), 0.0)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.where(y * p < 0, -y, 0.0)
