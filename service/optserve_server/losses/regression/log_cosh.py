"""The logarithm of the hyperbolic cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.losses.elementwise import ElementwiseLoss


@dataclass(frozen=True)
class LogCosh(ElementwiseLoss):
    """log(cosh(e)) with e = p - y, the mean over the last axis; the derivative is tanh(e).

    From a = |e|, which never overflows and keeps its digits near 0:

    log(1 + (1 - exp(-a))^2*exp(a)/2)    where a < 1
    a + log(1 + exp(-2a)) - log(2)       otherwise
    """

    def value(self, ops: Ops, p: Value, y: Value) -> Value:
        a = ops.abs(p - y)
        small = ops.minimum(a, 1.0)
        gap = ops.expm1(-small)
        near = ops.log1p(0.5 * gap * gap * ops.exp(small))
        return ops.where(a < 1, near, a + ops.log1p(ops.exp(-2 * a)) - math.log(2))

    def derivative(self, ops: Ops, p: Value, y: Value) -> Value:
        return ops.tanh(p - y)
