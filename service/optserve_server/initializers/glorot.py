"""Glorot initialization (Glorot and Bengio, 2010)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.variance_scaling import FanInitializer, InitializerDistribution


@dataclass(frozen=True)
class Glorot(FanInitializer):
    """Variance 2/(fan_in + fan_out), between what activations and gradients ask for."""

    distribution: InitializerDistribution = hyper(InitializerDistribution.UNIFORM)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / max(1.0, (fan_in + fan_out) / 2)
