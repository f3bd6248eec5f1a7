"""Rectified Adam (Liu et al., 2020, arXiv:1908.03265)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.adam import BiasCorrection
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


@dataclass(frozen=True)
class RAdam(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; m^ = m/(1 - b1^t). With
    rho = limit - 2*t*b2^t/(1 - b2^t), limit = 2/(1 - b2) - 1, the length of v's average,

    rho below `threshold`  p -= lr*m^
    FOLDED                 p -= lr*r*sqrt(1 - b2^t)*m^/(sqrt(v) + e)      (PyTorch)
    HATTED                 p -= lr*r*m^/(sqrt(v/(1 - b2^t)) + e)          (optax)

    where r^2 = (rho - 4)(rho - 2)*limit/((limit - 4)(limit - 2)*rho).
    `epsilon_root` is added below the root (optax). In the frame: an averaged first moment
    over 1 at first, then over the root of an averaged second.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-8, ge=0)
    epsilon_placement: EpsilonPlacement = hyper(EpsilonPlacement.OUTSIDE)
    bias_correction: BiasCorrection = hyper(
        BiasCorrection.FOLDED,
        optax=BiasCorrection.HATTED,
        allowed=(BiasCorrection.FOLDED, BiasCorrection.HATTED),
    )
    # The root of r^2 is real from 4 on.
    threshold: float = hyper(5.0, ge=4)
    rectified_at_threshold: bool = hyper(False, optax=True)
    epsilon_root: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "v"})

    def rectification(self, step: int) -> float | None:
        """r, or None if the average is still too short for one."""
        power = self.beta2**step
        limit = 2 / (1 - self.beta2) - 1
        rho = limit - 2 * step * power / (1 - power)
        long_enough = rho >= self.threshold if self.rectified_at_threshold else rho > self.threshold
        if not long_enough:
            return None
        return math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        rate, second = learning_rate / (1 - self.beta1**step), 1 - self.beta2**step
        rectification = self.rectification(step)
        if rectification is not None:
            folded = self.bias_correction is BiasCorrection.FOLDED
            rate *= rectification * (math.sqrt(second) if folded else 1)
        return {
            **self.constants,
            "rate": rate,
            "second": 1 / second,
            # No v is above infinity, and each is above -1: an infinite one is ignored as well.
            "rooted_above": math.inf if rectification is None else -1.0,
        }

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        rate: Value, second: Value, rooted_above: Value, epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        v = beta2 * v + rest_2 * (g * g)
        corrected = second * v if self.bias_correction is BiasCorrection.HATTED else v
        below = sqrt_with_epsilon(
            ops, corrected, epsilon, self.epsilon_placement, vanishing=self.epsilon == 0,
            below=epsilon_root if self.epsilon_root else None,
        )  # fmt: skip
        return p - rate * m / ops.where(v > rooted_above, below, 1.0), m, v
