"""Lion (Chen et al., 2023, arXiv:2302.06675)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class Lion(ElementwiseRule):
    """p -= lr*sign(b1*m + (1 - b1)*g); m = b2*m + (1 - b2)*g.

    In the frame: the sign of an averaged first moment over 1.
    """

    learning_rate: float = hyper(1e-3, ge=0)
    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.99, ge=0, lt=1)
    weight_decay: float = hyper(0.0, optax=1e-3, ge=0)

    @property
    def decoupled_weight_decay(self) -> float:
        return self.weight_decay

    def slots(self) -> dict[str, float]:
        return {"m": 0.0}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value, rate: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        direction = ops.sign(beta1 * m + rest_1 * g)
        return p - rate * direction, beta2 * m + rest_2 * g
