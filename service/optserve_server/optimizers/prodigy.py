"""Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.groupwise import GroupwiseRule


@dataclass(frozen=True)
class Prodigy(GroupwiseRule):
    """With the estimate d, lr' = d*lr*sqrt(1 - b2^t)/(1 - b1^t) and w = d (safeguarded) or lr',

    m = b1*m + (1 - b1)*d*g; v = b2*v + (1 - b2)*(d*g)^2; s = b3*s + w/d0*d*g
    n = b3*n + d/d0*lr'*sum(g*(p0 - p)); d = max(d, coefficient*n/sum(|s|))
    p -= lr'*(weight_decay*p + m/(sqrt(v) + d*e))

    where p0 is where p started, d0 the first d, and the sums run over the group. (optax)
    In the frame: Adam, its learning rate an estimate of the distance to the solution.
    """

    learning_rate: float = hyper(1.0, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.999, ge=0, lt=1)
    beta3: float = hyper(0.0, ge=0, lt=1)
    epsilon: float = hyper(1e-8, gt=0)
    initial_estimate: float = hyper(1e-6, gt=0)
    estimate_coefficient: float = hyper(1.0, gt=0)
    weight_decay: float = hyper(0.0, ge=0)
    safeguard_warmup: bool = hyper(False)

    def slots(self) -> dict[str, float]:
        # Not Adam's m and v: these hold d. And p0 - p is kept rather than p0, for it starts
        # at 0 whatever p starts at.
        return {"scaled_m": 0.0, "scaled_v": 0.0, "gradient_sum": 0.0, "way_back": 0.0}

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset(self.slots())

    def initial_scalar_state(self) -> dict[str, float]:
        return {"estimate": self.initial_estimate, "numerator": 0.0}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        estimate = carried["estimate"]
        correction = math.sqrt(1 - self.beta2**step) / (1 - self.beta1**step)
        rate = estimate * learning_rate * correction
        return {
            **self.constants,
            "beta3": self.beta3 or math.sqrt(self.beta2),
            "weight": (estimate if self.safeguard_warmup else rate) / self.initial_estimate,
            "rate": rate,
            **carried,
        }

    def group_sum_terms(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, gradient_sum: Value, way_back: Value, *,
        beta3: Value, weight: Value, estimate: Value, **numbers: Value,
    ) -> dict[str, Value]:  # fmt: skip
        # Of the signed sum the two halves: only magnitudes are summed.
        along = g * way_back
        return {
            "along": ops.maximum(along, 0.0),
            "against": ops.minimum(along, 0.0),
            "sum": beta3 * gradient_sum + weight * (estimate * g),
        }

    def compute_group_scalars(
        self, sums: Mapping[str, float], numbers: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        estimate = numbers["estimate"]
        gained = estimate / self.initial_estimate * numbers["rate"] * (sums["along"] - sums["against"])
        numerator = numbers["beta3"] * numbers["numerator"] + gained
        found = self.estimate_coefficient * numerator / sums["sum"] if sums["sum"] else 0.0
        following = max(estimate, found)
        return {"floor": following * self.epsilon}, {"estimate": following, "numerator": numerator}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, gradient_sum: Value, way_back: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value, beta3: Value, weight: Value,
        rate: Value, weight_decay: Value, estimate: Value, floor: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        dg = estimate * g
        m = beta1 * m + rest_1 * dg
        v = beta2 * v + rest_2 * (dg * dg)
        step = m / (ops.sqrt(v) + floor)
        if self.weight_decay:
            step = step + weight_decay * p
        after = p - rate * step
        return after, m, v, beta3 * gradient_sum + weight * dg, way_back + (p - after)
