"""Mish (Misra, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.activations.base import ElementwiseActivation
from optserve_server.arrays.ops import Ops, Value

FAR = 800.0
"""Where exp(-x) is 0 in float64."""


@dataclass(frozen=True)
class Mish(ElementwiseActivation):
    """x*tanh(softplus(x)) = x*n/m, from e = exp(-|x|), which never overflows:

    n = e^2 + 2e and m = n + 2 left of 0, n = 1 + 2e and m = n + 2e^2 right of it. The
    derivative is n/m + 4x*k*(1 + e)/m^2 with k = e on the left and e^2 on the right.
    """

    def forward(self, ops: Ops, x: Value) -> Value:
        e = ops.exp(-ops.abs(x))
        n, m = _tanh_softplus_fraction(ops, x, e)
        return ops.maximum(x, -FAR) * (n / m)

    def gradient(self, ops: Ops, x: Value, dy: Value) -> Value:
        e = ops.exp(-ops.abs(x))
        n, m = _tanh_softplus_fraction(ops, x, e)
        k = ops.where(x > 0, e * e, e)
        finite = ops.minimum(ops.maximum(x, -FAR), FAR)
        return dy * (n / m + 4 * finite * (k * (1 + e) / (m * m)))


def _tanh_softplus_fraction(ops: Ops, x: Value, e: Value) -> tuple[Value, Value]:
    n = ops.where(x > 0, 1 + 2 * e, e * (e + 2))
    return n, n + ops.where(x > 0, 2 * (e * e), 2.0)
