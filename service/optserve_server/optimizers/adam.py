"""Adam (Kingma and Ba, 2015, arXiv:1412.6980)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


class BiasCorrection(StrEnum):
    """How the moments are corrected for starting at zero."""

    FOLDED = "FOLDED"
    HATTED = "HATTED"
    NONE = "NONE"


# Python takes a third of a microsecond to read a member of an enumeration from its class.
NONE, FOLDED = BiasCorrection.NONE, BiasCorrection.FOLDED


def correction_factors(
    form: BiasCorrection, step: int, beta1: float, beta2: float
) -> tuple[float, float, float]:
    """What the step size, m and v are multiplied by under ``form`` at ``step``."""
    if form is NONE:
        return 1.0, 1.0, 1.0
    first, second = 1 - beta1**step, 1 - beta2**step
    if form is FOLDED:
        return math.sqrt(second) / first, 1.0, 1.0
    return 1.0, 1 / first, 1 / second


@dataclass(frozen=True)
class Adam(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; then, by `bias_correction`,

    FOLDED  p -= lr*sqrt(1 - b2^t)/(1 - b1^t) * m/(sqrt(v) + e)      (Keras)
    HATTED  p -= lr*m^/(sqrt(v^) + e), m^ = m/(1 - b1^t), v^ = v/(1 - b2^t)
    NONE    p -= lr*m/(sqrt(v) + e)

    `epsilon_root` is added to whatever the root is taken of (optax). In the frame: an
    averaged first moment over the root of an averaged second.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-7, torch=1e-8, optax=1e-8, lecture=0.0, ge=0)
    epsilon_placement: EpsilonPlacement = hyper(EpsilonPlacement.OUTSIDE)
    bias_correction: BiasCorrection = hyper(
        BiasCorrection.FOLDED,
        torch=BiasCorrection.HATTED,
        optax=BiasCorrection.HATTED,
        lecture=BiasCorrection.HATTED,
    )
    epsilon_root: float = hyper(0.0, ge=0)

    @property
    def correction(self) -> BiasCorrection:
        """The correction that holds; a rule built on Adam may leave no choice."""
        return self.bias_correction

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset() if self.correction is BiasCorrection.NONE else frozenset({"m", "v"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        rate, first, second = correction_factors(self.correction, step, self.beta1, self.beta2)
        return {**self.constants, "rate": learning_rate * rate * first, "second": second}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        rate: Value, second: Value, epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        v = beta2 * v + rest_2 * (g * g)
        corrected = second * v if self.correction is BiasCorrection.HATTED else v
        return p - rate * m / self.compute_denominator(ops, corrected, epsilon, epsilon_root), m, v

    def compute_denominator(self, ops: Ops, v: Value, epsilon: Value, epsilon_root: Value) -> Value:
        """The denominator over the second moment ``v``."""
        below = epsilon_root if self.epsilon_root else None
        return sqrt_with_epsilon(
            ops, v, epsilon, self.epsilon_placement, vanishing=self.epsilon == 0, below=below
        )
