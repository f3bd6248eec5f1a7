"""Sparsemax loss of yes-or-no answers (Blondel et al., 2020, arXiv:1901.02324)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class SparsemaxLoss(ElementwiseLoss):
    """s(z), the mean over the last axis, where z is p if y is 0, and -p otherwise, and s(z) is

    0              where z <= -1
    (z + 1)^2/4    between
    z              where z >= 1

    The derivative is (z + 1)/2 held to [0, 1], negated unless y is 0.
    """

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        z = ops.where(y == 0, p, -p)
        rise = z + 1
        return ops.where(z <= -1, 0.0, ops.where(z >= 1, z, rise * rise / 4))

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        slope = 0.5 * ops.minimum(ops.maximum(ops.where(y == 0, p, -p) + 1, 0.0), 2.0)
        return ops.where(y == 0, slope, -slope)
