"""Muon (Jordan et al., 2024), with AdamW for what is not a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optserve_server.hyper import hyper
from optserve_server.optimizers.matrix import Matrix, MatrixRule, norm

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration; chosen for the slope at 0, not for convergence to 1."""


@dataclass(frozen=True)
class Muon(MatrixRule):
    """For a matrix of A rows and B columns

    m = mu*m + (1 - mu)*g; u = orthogonalized(mu*m + (1 - mu)*g if `nesterov`, else m)
    p -= lr*sqrt(max(1, A/B))*u

    and for every other tensor Adam's step with bias-corrected moments, `adam_epsilon_root`
    below its root. Decoupled decay goes before both. (PyTorch, which iterates in bfloat16 and
    leaves other tensors to the caller; here the iteration runs in the parameter's dtype.)
    In the frame: an averaged first moment, its singular values pushed towards 1.
    """

    name: ClassVar[str] = "muon"
    all_slots: ClassVar[tuple[str, ...]] = ("m", "v")

    learning_rate: float = hyper(1e-3, ge=0)
    weight_decay: float = hyper(0.1, optax=0.0, ge=0)
    momentum: float = hyper(0.95, ge=0, lt=1)
    nesterov: bool = hyper(True)
    iterations: int = hyper(5, ge=0, le=99)
    epsilon: float = hyper(1e-7, gt=0)
    adam_learning_rate_factor: float = hyper(1.0, ge=0)
    adam_beta_1: float = hyper(0.9, ge=0, lt=1)
    adam_beta_2: float = hyper(0.999, ge=0, lt=1)
    adam_epsilon: float = hyper(1e-8, gt=0)
    adam_epsilon_root: float = hyper(0.0, ge=0)

    @property
    def decoupled_weight_decay(self) -> float:
        return self.weight_decay

    @property
    def counted_slots(self) -> frozenset[str]:
        return frozenset(self.all_slots)

    def tensor_slots(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"m": shape} if len(shape) == 2 else {"m": shape, "v": shape}

    def scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {
            "rate": learning_rate,
            "adam_rate": learning_rate * self.adam_learning_rate_factor,
            "first": 1 / (1 - self.adam_beta_1**step),
            "second": 1 / (1 - self.adam_beta_2**step),
        }

    def step(
        self, xp: Any, p: Matrix, g: Matrix, slots: Mapping[str, Matrix],
        numbers: Mapping[str, float], kept: float,
    ) -> tuple[Matrix, dict[str, Matrix]]:  # fmt: skip
        if p.ndim != 2:
            return self._adam(xp, kept * p, g, slots, numbers)
        m = self.momentum * slots["m"] + (1 - self.momentum) * g
        u = self.momentum * m + (1 - self.momentum) * g if self.nesterov else m
        rows, columns = p.shape
        rate = numbers["rate"] * math.sqrt(max(1.0, rows / max(columns, 1)))
        return kept * p - rate * orthogonalized(xp, u, self.iterations, self.epsilon), {"m": m}

    def _adam(
        self, xp: Any, p: Matrix, g: Matrix, slots: Mapping[str, Matrix], numbers: Mapping[str, float]
    ) -> tuple[Matrix, dict[str, Matrix]]:
        m = self.adam_beta_1 * slots["m"] + (1 - self.adam_beta_1) * g
        v = self.adam_beta_2 * slots["v"] + (1 - self.adam_beta_2) * (g * g)
        second = numbers["second"] * v
        if self.adam_epsilon_root:
            second = second + self.adam_epsilon_root
        below = xp.sqrt(second) + self.adam_epsilon
        return p - numbers["adam_rate"] * (numbers["first"] * m) / below, {"m": m, "v": v}


def orthogonalized(xp: Any, u: Matrix, iterations: int, epsilon: float) -> Matrix:
    """U = U*S*V^T with its singular values moved towards 1, by a Newton-Schulz iteration.

    Args:
        xp: the array module.
        u: a matrix.
        iterations: how often to iterate.
        epsilon: the least norm that is divided by.
    """
    a, b, c = COEFFICIENTS
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / max(norm(xp, x), epsilon)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x
