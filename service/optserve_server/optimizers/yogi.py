"""Yogi (Zaheer et al., 2018, Adaptive Methods for Nonconvex Optimization)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.epsilon import EpsilonPlacement, sqrt_with_epsilon


@dataclass(frozen=True)
class Yogi(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; v -= (1 - b2)*sign(v - g^2)*g^2;
    p -= lr*m^/(sqrt(v^) + e), m^ = m/(1 - b1^t), v^ = v/(1 - b2^t).

    As in optax both moments start at `initial_accumulator`, so that a weight without
    gradients moves a little; under LECTURE they start at 0. `epsilon_root` is added below the
    root (optax). In the frame: an averaged first moment over the root of a second that
    follows by steps as large as g^2.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    epsilon: float = hyper(1e-3, ge=0)
    epsilon_placement: EpsilonPlacement = hyper(EpsilonPlacement.OUTSIDE)
    initial_accumulator: float = hyper(1e-6, lecture=0.0, ge=0)
    epsilon_root: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": self.initial_accumulator, "v": self.initial_accumulator}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset({"m", "v"})

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            **self.constants,
            "rate": learning_rate / (1 - self.beta1**step),
            "second": 1 / (1 - self.beta2**step),
        }

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, rest_2: Value, rate: Value, second: Value,
        epsilon: Value, epsilon_root: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        v = move_towards(ops, v, g * g, rest_2)
        below = sqrt_with_epsilon(
            ops, second * v, epsilon, self.epsilon_placement, vanishing=self.epsilon == 0,
            below=epsilon_root if self.epsilon_root else None,
        )  # fmt: skip
        return p - rate * m / below, m, v


def move_towards(ops: Ops, v: Value, square: Value, rest: Value) -> Value:
    """``v``, moved towards ``square`` by a part of ``square``; at least 0.

    Where v > g^2 it keeps at least b2*v, so that only rounding could take it below 0.
    """
    return ops.maximum(v - rest * ops.sign(v - square) * square, 0.0)
