"""Mean absolute percentage error."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import CLIP


@dataclass(frozen=True)
class MeanAbsolutePercentageError(ElementwiseLoss):
    """100*mean(|p - y|/max(|y|, 1e-7)) over the last axis; the derivative at p = y is 0."""

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return 100 * (ops.abs(p - y) / ops.maximum(ops.abs(y), CLIP))

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return 100 * (ops.sign(p - y) / ops.maximum(ops.abs(y), CLIP))
