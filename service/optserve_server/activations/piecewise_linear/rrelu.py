"""The randomized rectifier (Xu et al., 2015, arXiv:1505.00853)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.activations.base import Floats
from optserve_server.activations.piecewise_linear.sloped_activation import SlopedActivation
from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class RReLU(SlopedActivation):
    """x where x > 0, otherwise slope*x, with slopes drawn from [lower, upper] when training.

    Otherwise every slope is (lower + upper)/2. Draws are made on the host, in float64 and in
    row-major order, so seed and shape alone decide about them: an activation and its gradient
    with the same seed agree.
    """

    lower: float = hyper(1 / 8, ge=0, le=1e30)
    upper: float = hyper(1 / 3, ge=0, le=1e30)
    training: bool = hyper(False)
    seed: int = hyper(0, ge=0)

    def validate(self) -> None:
        if self.lower > self.upper:
            raise conflict_error("lower", f"lower is {self.lower}, but must be at most upper, {self.upper}")

    def compute_negative_slopes(self, x: Floats, slope: Floats | None) -> Floats:
        if not self.training:
            return np.asarray((self.lower + self.upper) / 2, x.dtype)
        drawn = np.random.default_rng(self.seed).random(x.shape)
        return np.asarray(self.lower + (self.upper - self.lower) * drawn, x.dtype)
