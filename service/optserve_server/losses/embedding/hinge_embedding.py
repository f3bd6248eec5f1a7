"""Hinge loss of distances."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class HingeEmbedding(ElementwiseLoss):
    """The mean over the last axis of

    p                    where y is 1
    max(margin - p, 0)   where y is -1

    Targets are -1 and 1; any other has the sum of both, as in PyTorch.
    """

    margin: float = hyper(1.0)

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        near = ops.where(y == -1, 0.0, p)
        return near + ops.where(y == 1, 0.0, ops.maximum(self.margin - p, 0.0))

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        near = ops.where(y == -1, 0.0, 1.0)
        return near - ops.where(y == 1, 0.0, ops.where(self.margin - p > 0, 1.0, 0.0))
