"""LAMB (You et al., 2020, arXiv:1904.00962)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon
from optserve_server.optimizers.tensorwise import Norms, TensorwiseRule, trust_ratio


@dataclass(frozen=True)
class LAMB(TensorwiseRule):
    """m and v as in Adam, both corrected; u = m^/(sqrt(v^) + e) + weight_decay*p; then

    p -= lr*|p|/|u| * u, where the norms run over each tensor and a ratio with a 0 is 1.

    `weight_decay` stands inside the ratio (the paper, optax). Keras decays outside of it:
    that is the session's decoupled weight decay. `epsilon_root` is added below the root (optax).
    In the frame: Adam's step, its length set by the tensor that it moves.
    """

    tensor_numbers: ClassVar[tuple[str, ...]] = ("ratio",)

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-7, torch=1e-6, optax=1e-6, lecture=0.0, ge=0)
    weight_decay: float = hyper(0.0, ge=0)
    epsilon_root: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "v"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            "beta1": self.beta1,
            "rest_1": 1 - self.beta1,
            "beta2": self.beta2,
            "rest_2": 1 - self.beta2,
            "first": 1 / (1 - self.beta1**step),
            "second": 1 / (1 - self.beta2**step),
            "epsilon": self.epsilon,
            "epsilon_root": self.epsilon_root,
            "weight_decay": self.weight_decay,
            "rate": learning_rate,
        }

    def direction(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value,
        first: Value, second: Value, epsilon: Value, epsilon_root: Value, weight_decay: Value,
    ) -> tuple[Value, Value, Value]:  # fmt: skip
        """u, m and v."""
        m = beta1 * m + rest_1 * g
        v = beta2 * v + rest_2 * (g * g)
        below = sqrt_with_epsilon(
            ops, second * v, epsilon, EpsilonPlacement.OUTSIDE, vanishing=self.epsilon == 0,
            below=epsilon_root if self.epsilon_root else None,
        )  # fmt: skip
        u = first * m / below
        return (u + weight_decay * p if self.weight_decay else u), m, v

    def tensor_sum_terms(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *, rate: Value, **numbers: Value
    ) -> dict[str, Value]:
        u, _, _ = self.direction(ops, p, g, m, v, **numbers)
        return {"p": p, "u": u}

    def compute_tensor_scalars(self, norms: Mapping[str, Norms]) -> dict[str, Norms]:
        return {"ratio": trust_ratio(norms["p"], norms["u"])}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        rate: Value, ratio: Value, **numbers: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        u, m, v = self.direction(ops, p, g, m, v, **numbers)
        return p - rate * (ratio * u), m, v
