"""Soft margin loss: the logistic loss of signs."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss
from optserve_server.losses.probabilities import sigmoid, softplus


@dataclass(frozen=True)
class SoftMargin(ElementwiseLoss):
    """log(1 + exp(-y*p)), the mean over the last axis; the derivative is -y*sigmoid(-y*p).

    Targets are -1 and 1.
    """

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        return softplus(ops, -(y * p))

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return -(y * sigmoid(ops, -(y * p)))
