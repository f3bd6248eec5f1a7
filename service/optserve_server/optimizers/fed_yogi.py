"""FedYogi (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.fed_moments import FedMoments
from optserve_server.optimizers.yogi import move_towards


@dataclass(frozen=True)
class FedYogi(FedMoments):
    """FedAdam without a correction, with v -= (1 - b2)*sign(v - g^2)*g^2. In the frame: as FedAdam."""

    learning_rate: float = hyper(0.01, ge=0)
    tau: float = hyper(1e-3, gt=0)

    def second_moment(self, ops: Ops, v: Value, square: Value, beta2: Value, rest_2: Value) -> Value:
        return move_towards(ops, v, square, rest_2)
