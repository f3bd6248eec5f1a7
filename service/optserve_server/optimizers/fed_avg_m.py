"""Federated averaging with server momentum (Hsu, Qi and Brown, 2019, arXiv:1909.06335)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class FedAvgM(ElementwiseRule):
    """b = mu*b + g; p -= lr*b, where g is the pseudo-gradient.

    That is p - q, with q the mean of what the clients made of p: the Delta of the papers
    with its sign turned. In the frame: an accumulated first moment over 1.
    """

    learning_rate: float = hyper(1.0, ge=0)
    momentum: float = hyper(0.9, ge=0, le=1)

    def slots(self) -> dict[str, float]:
        return {"buffer": 0.0}

    def update(
        self, ops: Ops, p: Value, g: Value, b: Value, *, momentum: Value, rate: Value
    ) -> tuple[Value, ...]:
        b = momentum * b + g
        return p - rate * b, b
