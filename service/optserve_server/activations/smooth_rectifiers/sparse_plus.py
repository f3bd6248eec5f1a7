"""Sparse plus (Blondel et al., 2019, arXiv:1901.02324)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value


@dataclass(frozen=True)
class SparsePlus(ElementwiseActivation):
    """0 where x <= -1, x where x >= 1, and (x + 1)^2/4 between. The derivative is the sparse sigmoid."""

    def forward(self, ops: Ops, x: Value) -> Value:
        rise = x + 1
        return ops.where(x <= -1, 0.0, ops.where(x >= 1, x, rise * rise / 4))

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        return dy * (0.5 * ops.minimum(ops.maximum(x + 1, 0.0), 2.0))
