"""What FedAdam and FedYogi share (Reddi et al., 2021, arXiv:2003.00295)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class FedMoments(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; p -= lr*m/(sqrt(v) + tau), where g is the pseudo-gradient (see
    `FedAvgM`) and `second_moment` makes v.

    The paper starts v at tau^2 or above, Flower at 0.
    """

    beta1: float = hyper(0.9, ge=0, lt=1)
    beta2: float = hyper(0.99, ge=0, lt=1)
    tau: float = hyper(gt=0)
    initial_accumulator: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "v": self.initial_accumulator}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, v: Value, *,
        beta1: Value, rest_1: Value, beta2: Value, rest_2: Value, rate: Value, tau: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        v = self.second_moment(ops, v, g * g, beta2, rest_2)
        return p - rate * m / (ops.sqrt(v) + tau), m, v

    @abstractmethod
    def second_moment(self, ops: Ops, v: Value, square: Value, beta2: Value, rest_2: Value) -> Value:
        """The new v."""
