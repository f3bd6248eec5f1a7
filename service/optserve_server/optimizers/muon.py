"""Muon (Jordan et al., 2024), with AdamW for what is not a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.matrix import Matrix, MatrixRule, norm

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration; chosen for the slope at 0, not for convergence to 1."""


class MuonForm(StrEnum):
    """Whose Muon."""

    TORCH = "TORCH"
    KERAS = "KERAS"
    OPTAX = "OPTAX"


@dataclass(frozen=True)
class Muon(MatrixRule):
    """For a matrix of A rows and B columns

    m = mu*m + (1 - mu)*g; u = mu*m + (1 - mu)*g if `nesterov`, else m
    p -= lr*scale*orthogonalized(u)

    TORCH  |u| is at least `epsilon`; scale = sqrt(max(1, A/B))
    KERAS  `epsilon` is added to |u|/(1 - mu); scale = 1
    OPTAX  u = mu*m/(1 - mu^(t+1)) + (1 - mu)*g/(1 - mu^t) if `nesterov`, else m/(1 - mu^t);
           `epsilon` is added to |u|; scale = sqrt(max(1, B/A))

    and scale = rms_rate*sqrt(max(A, B)) where `rms_rate` is above 0 (Keras; Liu et al., 2025,
    arXiv:2502.16982). Keras' momentum, mu*m + g, is m/(1 - mu), which changes nothing else.

    Every other tensor takes Adam's step with bias-corrected moments, `adam_epsilon_root` below
    its root: folded as in Keras' Adam under KERAS, with NAdam's look-ahead under OPTAX if
    `nesterov`. Decoupled decay goes before both. PyTorch iterates in bfloat16 and leaves other
    tensors to the caller; here the iteration runs in the parameter's dtype.
    In the frame: an averaged first moment, its singular values pushed towards 1.
    """

    all_slots: ClassVar[tuple[str, ...]] = ("m", "v")

    learning_rate: float = hyper(1e-3, ge=0)
    weight_decay: float = hyper(0.004, torch=0.1, optax=0.0, ge=0)
    momentum: float = hyper(0.95, ge=0, lt=1)
    nesterov: bool = hyper(True)
    iterations: int = hyper(5, ge=0, le=99)
    epsilon: float = hyper(1e-7, optax=1e-8, gt=0)
    adam_learning_rate_factor: float = hyper(1.0, ge=0)
    adam_beta1: float = hyper(0.9, ge=0, lt=1)
    adam_beta2: float = hyper(0.999, ge=0, lt=1)
    adam_epsilon: float = hyper(1e-7, torch=1e-8, optax=1e-8, gt=0)
    adam_epsilon_root: float = hyper(0.0, ge=0)
    form: MuonForm = hyper(MuonForm.KERAS, torch=MuonForm.TORCH, optax=MuonForm.OPTAX)
    rms_rate: float = hyper(0.2, torch=0.0, optax=0.0, ge=0)

    @property
    def decoupled_weight_decay(self) -> float:
        return self.weight_decay

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        return frozenset(self.all_slots)

    def tensor_slots(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"m": shape} if len(shape) == 2 else {"m": shape, "v": shape}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        optax = self.form is MuonForm.OPTAX
        adam_rate, second = learning_rate * self.adam_learning_rate_factor, 1 - self.adam_beta2**step
        if self.form is MuonForm.KERAS:
            adam_rate, second = adam_rate * math.sqrt(second), 1.0
        averaged, fresh = _momentum_weights(self.momentum, step, self.nesterov, corrected=optax)
        adam_averaged, adam_fresh = _momentum_weights(
            self.adam_beta1, step, self.nesterov and optax, corrected=True
        )
        return {
            "rate": learning_rate,
            "averaged": averaged,
            "fresh": fresh,
            "adam_rate": adam_rate,
            "adam_averaged": adam_averaged,
            "adam_fresh": adam_fresh,
            "second": 1 / second,
        }

    def step(
        self, xp: Any, p: Matrix, g: Matrix, slots: Mapping[str, Matrix],
        numbers: Mapping[str, float], kept: float,
    ) -> tuple[Matrix, dict[str, Matrix]]:  # fmt: skip
        if p.ndim != 2:
            return self._adam_step(xp, kept * p, g, slots, numbers)
        m = self.momentum * slots["m"] + (1 - self.momentum) * g
        u = _blend_gradient(m, g, numbers["averaged"], numbers["fresh"])
        rate = numbers["rate"] * self._update_scale(*p.shape)
        return kept * p - rate * orthogonalize(xp, u, self.iterations, self._momentum_divisor(norm(xp, u))), {
            "m": m
        }

    def _update_scale(self, rows: int, columns: int) -> float:
        if self.rms_rate:
            return self.rms_rate * math.sqrt(max(rows, columns))
        if self.form is MuonForm.KERAS:
            return 1.0
        above, below = (rows, columns) if self.form is MuonForm.TORCH else (columns, rows)
        return math.sqrt(max(1.0, above / max(below, 1)))

    def _momentum_divisor(self, length: float) -> float:
        """What a momentum of this norm is divided by before the iteration."""
        if self.form is MuonForm.TORCH:
            return max(length, self.epsilon)  # a NaN, which comes first, is kept
        return length + self.epsilon * (1 - self.momentum if self.form is MuonForm.KERAS else 1.0)

    def _adam_step(
        self, xp: Any, p: Matrix, g: Matrix, slots: Mapping[str, Matrix], numbers: Mapping[str, float]
    ) -> tuple[Matrix, dict[str, Matrix]]:
        m = self.adam_beta1 * slots["m"] + (1 - self.adam_beta1) * g
        v = self.adam_beta2 * slots["v"] + (1 - self.adam_beta2) * (g * g)
        second = numbers["second"] * v
        if self.adam_epsilon_root:
            second = second + self.adam_epsilon_root
        below = xp.sqrt(second) + self.adam_epsilon
        direction = _blend_gradient(m, g, numbers["adam_averaged"], numbers["adam_fresh"])
        return p - numbers["adam_rate"] * direction / below, {"m": m, "v": v}


def _momentum_weights(beta: float, step: int, nesterov: bool, *, corrected: bool) -> tuple[float, float]:
    """The shares of the average m and of the gradient in the direction of step t.

    beta and 1 - beta with `nesterov`, else 1 and 0; ``corrected`` divides the average's share
    by 1 - beta^t, or 1 - beta^(t+1) with `nesterov`, and the gradient's by 1 - beta^t.
    """
    averaged, fresh = (beta, 1 - beta) if nesterov else (1.0, 0.0)
    if not corrected:
        return averaged, fresh
    return averaged / (1 - beta ** (step + nesterov)), fresh / (1 - beta**step)


def _blend_gradient(m: Matrix, g: Matrix, averaged: float, fresh: float) -> Matrix:
    return averaged * m + fresh * g if fresh else averaged * m


def orthogonalize(xp: Any, u: Matrix, iterations: int, divisor: float) -> Matrix:
    """U = U*S*V^T with its singular values moved towards 1, by a Newton-Schulz iteration.

    Args:
        xp: the array module.
        u: a matrix.
        iterations: how often to iterate.
        divisor: what it is divided by first, about its norm.
    """
    a, b, c = COEFFICIENTS
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / divisor
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x
