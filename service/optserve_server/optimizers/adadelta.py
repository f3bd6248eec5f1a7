"""Adadelta (Zeiler, 2012, arXiv:1212.5701)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class Adadelta(ElementwiseRule):
    """v = rho*v + (1 - rho)*g^2; d = sqrt(u + e)/sqrt(v + e)*g; u = rho*u + (1 - rho)*d^2;
    p -= lr*d.

    u starts at 0, so that without e nothing would ever move: here LECTURE means the paper's
    e. In the frame: the gradient times the root of u over the root of v.
    """

    # optax multiplies by no learning rate unless it is given one.
    learning_rate: float = hyper(1e-3, torch=1.0, optax=1.0, lecture=1.0, ge=0)
    rho: float = hyper(0.95, torch=0.9, optax=0.9, ge=0, lt=1)
    epsilon: float = hyper(1e-7, torch=1e-6, optax=1e-6, lecture=1e-6, gt=0)

    def slots(self) -> dict[str, float]:
        return {"v": 0.0, "step_squares": 0.0}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rest": 1 - self.rho, "rate": learning_rate}

    def update(
        self, ops: Ops, p: Value, g: Value, v: Value, u: Value, *,
        rho: Value, rest: Value, rate: Value, epsilon: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        v = rho * v + rest * (g * g)
        d = ops.sqrt(u + epsilon) / ops.sqrt(v + epsilon) * g
        u = rho * u + rest * (d * d)
        return p - rate * d, v, u
