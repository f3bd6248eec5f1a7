"""FedAdagrad (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class FedAdagrad(ElementwiseRule):
    """m = b1*m + (1 - b1)*g; a += g^2; p -= lr*m/(sqrt(a) + tau), where g is the
    pseudo-gradient (see `FedAvgM`).

    The paper starts a at tau^2 or above, Flower at 0. In the frame: an averaged first moment
    over the root of the sum of all squares.
    """

    learning_rate: float = hyper(0.1, ge=0)
    beta1: float = hyper(0.0, ge=0, lt=1)
    tau: float = hyper(1e-9, gt=0)
    initial_accumulator: float = hyper(0.0, ge=0)

    def slots(self) -> dict[str, float]:
        return {"m": 0.0, "accumulator": self.initial_accumulator}

    def update(
        self, ops: Ops, p: Value, g: Value, m: Value, a: Value, *,
        beta1: Value, rest_1: Value, rate: Value, tau: Value,
    ) -> tuple[Value, ...]:  # fmt: skip
        m = beta1 * m + rest_1 * g
        a = a + g * g
        return p - rate * m / (ops.sqrt(a) + tau), m, a
