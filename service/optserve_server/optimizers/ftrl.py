"""FTRL-proximal (McMahan et al., 2013, Ad Click Prediction)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import replace_zeros


@dataclass(frozen=True)
class FTRL(ElementwiseRule):
    """n = a + g^2; z += g + 2*l2_shrinkage*p - (sqrt(n) - sqrt(a))/lr*p; a = n;
    p = (clip(z, -l1, l1) - z)/(sqrt(n)/lr + 2*l2 + beta/lr).

    p follows from z alone, so that it is exactly 0 where abs(z) <= l1, and a weight that has
    seen no gradient yet becomes 0 whatever it was. A step of rate 0 changes nothing. In the
    frame: all gradients so far over the root of the sum of all squares.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    # Other powers would need pow(), which executors round differently.
    learning_rate_power: float = hyper(-0.5, ge=-0.5, le=-0.5)
    initial_accumulator: float = hyper(0.1, ge=0)
    l1: float = hyper(0.0, ge=0)
    l2: float = hyper(0.0, ge=0)
    l2_shrinkage: float = hyper(0.0, ge=0)
    beta: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator, "linear": 0.0}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        per_rate = 1 / learning_rate if learning_rate else 0.0
        return {
            **self.constants,
            "per_rate": per_rate,
            "minus_l1": -self.l1,
            "level": 2 * self.l2 + self.beta * per_rate,
            "shrinkage": 2 * self.l2_shrinkage,
            # No sum of squares is above infinity, and each is above -1.
            "moving_above": -1.0 if learning_rate else math.inf,
        }

    def update(
        self, ops: Ops, p: Value, g: Value, a: Value, z: Value, *,
        per_rate: Value, l1: Value, minus_l1: Value, level: Value, shrinkage: Value, moving_above: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        n = a + g * g
        grown = ops.sqrt(n)
        linear = z + (g + shrinkage * p - (grown - ops.sqrt(a)) * per_rate * p)
        clipped = ops.minimum(ops.maximum(linear, minus_l1), l1)
        new = (clipped - linear) / replace_zeros(ops, grown * per_rate + level)
        moving = a > moving_above
        return ops.where(moving, new, p), ops.where(moving, n, a), ops.where(moving, linear, z)
