"""LeCun initialization (LeCun, Bottou, Orr and Müller, 1998)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.variance_scaling import FanInitializer, InitializerDistribution


@dataclass(frozen=True)
class Lecun(FanInitializer):
    """Variance 1/fan_in, which keeps a linear layer's outputs at the size of its inputs."""

    distribution: InitializerDistribution = hyper(InitializerDistribution.TRUNCATED_NORMAL)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / max(1, fan_in)
