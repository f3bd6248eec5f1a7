"""Mean squared error."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class MeanSquaredError(ElementwiseLoss):
    """mean((p - y)^2) over the last axis; the gradient is 2*(p - y)/n."""

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        error = p - y
        return error * error

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return 2 * (p - y)
