"""Adan (Xie et al., 2022, arXiv:2208.06677)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


@dataclass(frozen=True)
class Adan(ElementwiseRule):
    """With the gradient's change d = g - (the gradient before), 0 at first,

    m = b1*m + (1 - b1)*g;  c = b2*c + (1 - b2)*d;  n = b3*n + (1 - b3)*(g + (1 - b2)*d)^2
    p -= lr*(m^ + (1 - b2)*c^)/(sqrt(n^ + e_root) + e)

    where ^ divides by 1 - b^t. As in optax a beta is the share that is kept; the paper's is
    the rest. In the frame: an averaged first moment looking ahead, over the root of a second.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.98, ge=0, lt=1)
    beta2: float = hyper(0.92, ge=0, lt=1)
    beta3: float = hyper(0.99, ge=0, lt=1)
    epsilon: float = hyper(1e-8, ge=0)
    epsilon_root: float = hyper(1e-8, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "change": 0.0, "n": 0.0, "previous_gradient": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "change", "n", "previous_gradient"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            **self.constants,
            "known": 0.0 if step == 1 else 1.0,
            "from_m": learning_rate / (1 - self.beta1**step),
            "from_change": learning_rate * (1 - self.beta2) / (1 - self.beta2**step),
            "second": 1 / (1 - self.beta3**step),
        }

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, change: Value, n: Value, previous: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value, beta3: Value, rest_3: Value,
        known: Value, from_m: Value, from_change: Value, second: Value,
        epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        d = known * (g - previous)
        ahead = g + rest_2 * d
        m = beta1 * m + rest_1 * g
        change = beta2 * change + rest_2 * d
        n = beta3 * n + rest_3 * (ahead * ahead)
        below = sqrt_with_epsilon(
            ops, second * n + epsilon_root, epsilon, EpsilonPlacement.OUTSIDE, vanishing=self.epsilon == 0
        )
        return p - (from_m * m + from_change * change) / below, m, change, n, g
