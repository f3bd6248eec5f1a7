"""The sparse sigmoid (Blondel et al., 2019, arXiv:1901.02324)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class SparseSigmoid(ElementwiseActivation):
    """(x + 1)/2, cut off at 0 and 1: the derivative of sparse plus. Its own at -1 and 1 is 0."""

    def forward(self, ops: Ops, x: Value) -> Value:
        return 0.5 * ops.minimum(ops.maximum(x + 1, 0.0), 2.0)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return ops.where(x > -1, ops.where(x < 1, 0.5 * dy, 0.0), 0.0)
