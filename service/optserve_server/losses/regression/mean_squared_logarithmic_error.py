"""Mean squared logarithmic error."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import CLIP


@dataclass(frozen=True)
class MeanSquaredLogarithmicError(ElementwiseLoss):
    """mean((log(1 + p) - log(1 + y))^2) over the last axis, where what is below 1e-7 counts as 1e-7.

    The derivative is 2*(log(1 + p) - log(1 + y))/(1 + p), 0 below 1e-7.
    """

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        error = _log_difference(ops, p, y)
        return error * error

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.where(p < CLIP, 0.0, 2 * _log_difference(ops, p, y) / (1 + p))


def _log_difference(ops: Ops, p: Value, y: Value) -> Value:
    return ops.log1p(ops.maximum(p, CLIP)) - ops.log1p(ops.maximum(y, CLIP))
