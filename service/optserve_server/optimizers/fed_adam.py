"""FedAdam (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import hyper
from optserve_server.optimizers.fed_moments import FedMoments


class FedAdamCorrection(StrEnum):
    """How FedAdam's rate is corrected for moments that start at zero."""

    NONE = "NONE"
    FOLDED_AHEAD = "FOLDED_AHEAD"


@dataclass(frozen=True)
class FedAdam(FedMoments):
    """m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; then, by `bias_correction`, g being the
    pseudo-gradient (see `FedAvgM`),

    NONE          p -= lr*m/(sqrt(v) + tau)                                         (the paper)
    FOLDED_AHEAD  p -= lr*sqrt(1 - b2^(t+1))/(1 - b1^(t+1)) * m/(sqrt(v) + tau)     (Flower)

    Flower's is Adam's FOLDED, a step ahead of it. The paper starts v at tau^2 or above, Flower
    at 0. In the frame: an averaged first moment over the root of an averaged second.
    """

    learning_rate: float = hyper(0.1, ge=0)
    tau: float = hyper(1e-9, gt=0)
    bias_correction: FedAdamCorrection = hyper(FedAdamCorrection.NONE)

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        corrected = self.bias_correction is FedAdamCorrection.FOLDED_AHEAD
        return frozenset({"m", "v"}) if corrected else frozenset()

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        if self.bias_correction is FedAdamCorrection.FOLDED_AHEAD:
            learning_rate *= math.sqrt(1 - self.beta2 ** (step + 1)) / (1 - self.beta1 ** (step + 1))
        return super().compute_scalars(step, learning_rate, **carried)

    def second_moment(self, ops: Ops, v: Value, square: Value, beta2: Value, rest_2: Value) -> Value:
        return beta2 * v + rest_2 * square
