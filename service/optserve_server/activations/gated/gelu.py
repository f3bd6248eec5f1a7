"""The Gaussian error linear unit (Hendrycks and Gimpel, 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.activations.gated.gated_activation import GatedActivation
from optserve_server.activations.gated.normal_tail import normal_density, upper_tail
from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper

CUBIC = 0.044715
RATE = 2 * math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class GELU(GatedActivation):
    """x*Phi(x), Phi being the standard normal distribution function.

    The approximation, jax.nn's default, is x/2*(1 + tanh(u)) = x*sigmoid(2u) with
    u = sqrt(2/pi)*(x + 0.044715*x^3).
    """

    far: ClassVar[float] = 40.0

    approximate: bool = hyper(False, optax=True)

    def compute_gate_tail_and_slope(self, ops: Ops, a: Value) -> tuple[Value, Value]:
        if not self.approximate:
            return upper_tail(ops, a), normal_density(ops, a)
        square = a * a
        e = ops.exp(-(RATE * a * (1 + CUBIC * square)))
        s = e / (1 + e)
        return s, s / (1 + e) * (RATE * (1 + 3 * CUBIC * square))
