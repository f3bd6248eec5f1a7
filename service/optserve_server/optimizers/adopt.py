"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class ADOPT(ElementwiseRule):
    """d = g/max(sqrt(v), e), clipped to (t - 1)^(1/4); m = b1*m + (1 - b1)*d; p -= lr*m;
    v = b2*v + (1 - b2)*g^2.

    So a gradient is never divided by its own magnitude. The first step only sets v = g^2. In the frame:
    an average of what the frame divides, by a second moment of the past.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.9999, ge=0, lt=1)
    # The first gradients after zeros are divided by it.
    epsilon: float = hyper(1e-6, gt=0)
    clipped: bool = hyper(True)

    def slots(self) -> dict[str, float]:
        # An average of quotients is no m.
        return {"direction": 0.0, "v": 0.0}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        bound = float((step - 1) ** 0.25)
        numbers = {**self.constants, "largest": bound, "smallest": -bound, "rate": learning_rate}
        if step > 1:
            return numbers
        # The first quotient is multiplied by 0 and must not overflow before.
        first = {"beta1": 1.0, "rest_1": 0.0, "beta2": 0.0, "rest_2": 1.0, "epsilon": math.inf}
        return numbers | first

    def update(
        self, ops: Ops, p: Value, g: Value, direction: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        largest: Value, smallest: Value, rate: Value, epsilon: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        d = g / ops.maximum(ops.sqrt(v), epsilon)
        if self.clipped:
            d = ops.minimum(ops.maximum(d, smallest), largest)
        direction = beta1 * direction + rest_1 * d
        return p - rate * direction, direction, beta2 * v + rest_2 * (g * g)
