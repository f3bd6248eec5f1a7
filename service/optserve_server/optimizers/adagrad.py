"""Adagrad (Duchi, Hazan and Singer, 2011)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


@dataclass(frozen=True)
class Adagrad(ElementwiseRule):
    """a += g^2; p -= lr_t*g/root, with lr_t = lr/(1 + (t - 1)*learning_rate_decay) and, by
    `epsilon_placement`,

    INSIDE   root = sqrt(a + e)  (Keras, optax)
    OUTSIDE  root = sqrt(a) + e  (PyTorch; Goodfellow et al., Deep Learning, with e = 1e-7)

    In the frame: the gradient itself over the root of the sum of all squares.
    """

    learning_rate: float = hyper(1e-3, torch=1e-2, ge=0)
    epsilon: float = hyper(1e-7, torch=1e-10, lecture=0.0, ge=0)
    epsilon_placement: EpsilonPlacement = hyper(EpsilonPlacement.INSIDE, torch=EpsilonPlacement.OUTSIDE)
    initial_accumulator: float = hyper(0.1, torch=0.0, lecture=0.0, ge=0)
    learning_rate_decay: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rate": learning_rate / (1 + (step - 1) * self.learning_rate_decay)}

    def update(
        self, ops: Ops, p: Value, g: Value, a: Value, *, rate: Value, epsilon: Value
    ) -> tuple[Value, ...]:
        a = a + g * g
        below = sqrt_with_epsilon(ops, a, epsilon, self.epsilon_placement, vanishing=self.epsilon == 0)
        return p - rate * g / below, a
