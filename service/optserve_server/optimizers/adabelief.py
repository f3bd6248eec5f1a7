"""AdaBelief (Zhuang et al., 2020, arXiv:2010.07468)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


@dataclass(frozen=True)
class AdaBelief(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; s = b2*s + (1 - b2)*(g - m)^2 + e_root;
    p -= lr*m^/(sqrt(s^) + e), m^ = m/(1 - b1^t), s^ = s/(1 - b2^t).

    In the frame: an averaged first moment over the root of the variance around it.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-16, ge=0)
    epsilon_root: float = hyper(1e-16, ge=0)

    def slots(self) -> dict[str, float]:
        # Around the mean, so it is no v.
        return {"m": 0.0, "s": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "s"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            **self.constants,
            "rate": learning_rate / (1 - self.beta1**step),
            "second": 1 / (1 - self.beta2**step),
        }

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, s: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        rate: Value, second: Value, epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        s = beta2 * s + rest_2 * ((g - m) * (g - m)) + epsilon_root
        below = sqrt_with_epsilon(
            ops, second * s, epsilon, EpsilonPlacement.OUTSIDE, vanishing=self.epsilon == 0
        )
        return p - rate * m / below, m, s
