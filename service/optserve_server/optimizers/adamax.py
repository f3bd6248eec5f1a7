"""Adamax (Kingma and Ba, 2015, arXiv:1412.6980, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import replace_zeros


class AdamaxForm(StrEnum):
    """Where epsilon is added."""

    DENOMINATOR = "DENOMINATOR"
    GRADIENT = "GRADIENT"


@dataclass(frozen=True)
class Adamax(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; then, by `form`,

    DENOMINATOR  u = max(b2*u, |g|); p -= lr/(1 - b1^t)*m/(u + e)    (Keras)
    GRADIENT     u = max(b2*u, |g| + e); p -= lr/(1 - b1^t)*m/u      (PyTorch, optax)

    In the frame: an averaged first moment over a fading maximum of magnitudes.
    """

    learning_rate: float = hyper(1e-3, torch=2e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-7, torch=1e-8, optax=1e-8, lecture=0.0, ge=0)
    form: AdamaxForm = hyper(AdamaxForm.DENOMINATOR, torch=AdamaxForm.GRADIENT, optax=AdamaxForm.GRADIENT)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "u": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rate": learning_rate / (1 - self.beta1**step)}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, u: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rate: Value, epsilon: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        if self.form is AdamaxForm.GRADIENT:
            below = u = ops.maximum(beta2 * u, ops.abs(g) + epsilon)
        else:
            u = ops.maximum(beta2 * u, ops.abs(g))
            below = u + epsilon
        if self.epsilon == 0:
            below = replace_zeros(ops, below)
        return p - rate * m / below, m, u
