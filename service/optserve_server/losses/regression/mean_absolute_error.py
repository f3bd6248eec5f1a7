"""Mean absolute error."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class MeanAbsoluteError(ElementwiseLoss):
    """mean(|p - y|) over the last axis; the gradient is sign(p - y)/n, 0 where they are equal."""

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.abs(p - y)

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.sign(p - y)
