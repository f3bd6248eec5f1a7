"""Adam with Nesterov momentum (Dozat, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


class NAdamForm(StrEnum):
    """Whether the momentum warms up."""

    SCHEDULED = "SCHEDULED"
    CONSTANT = "CONSTANT"


@dataclass(frozen=True)
class NAdam(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; p -= lr*m^/(sqrt(v/(1 - b2^t)) + e) with

    SCHEDULED  m^ = mu(t+1)*m/(1 - P*mu(t+1)) + (1 - mu(t))*g/(1 - P)  (Keras, PyTorch)
    CONSTANT   m^ = b1*m/(1 - b1^(t+1)) + (1 - b1)*g/(1 - b1^t)        (optax)

    where mu(t) = b1*(1 - 0.5*0.96^(t*momentum_decay)) and P is the product of mu(1)..mu(t).
    `epsilon_root` is added below the root (optax).
    In the frame: an averaged first moment looking ahead, over the root of a second.
    """

    learning_rate: float = hyper(1e-3, torch=2e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-7, torch=1e-8, optax=1e-8, lecture=0.0, ge=0)
    form: NAdamForm = hyper(NAdamForm.SCHEDULED, optax=NAdamForm.CONSTANT, lecture=NAdamForm.CONSTANT)
    momentum_decay: float = hyper(1.0, torch=0.004, ge=0)
    epsilon_root: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "v"})

    def initial_scalar_state(self) -> dict[str, float]:
        return {"momentum_product": 1.0} if self.form is NAdamForm.SCHEDULED else {}

    def momentum_at(self, step: int) -> float:
        """mu(t)."""
        return float(self.beta1 * (1 - 0.5 * 0.96 ** (step * self.momentum_decay)))

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        if self.form is NAdamForm.SCHEDULED:
            now, following = self.momentum_at(step), self.momentum_at(step + 1)
            product = carried["momentum_product"] * now
            carried = {"momentum_product": product}
        else:
            now = following = self.beta1
            product = self.beta1**step
        return {
            **self.constants,
            "from_m": learning_rate * following / (1 - product * following),
            "from_g": learning_rate * (1 - now) / (1 - product),
            "second": 1 / (1 - self.beta2**step),
            **carried,
        }

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        from_m: Value, from_g: Value, second: Value, epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        v = beta2 * v + rest_2 * (g * g)
        below = sqrt_with_epsilon(
            ops, second * v, epsilon, EpsilonPlacement.OUTSIDE, vanishing=self.epsilon == 0,
            below=epsilon_root if self.epsilon_root else None,
        )  # fmt: skip
        return p - (from_m * m + from_g * g) / below, m, v
