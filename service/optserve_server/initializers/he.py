"""He initialization (He et al., 2015, arXiv:1502.01852)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.variance_scaling import FanInitializer, InitializerDistribution


@dataclass(frozen=True)
class He(FanInitializer):
    """Variance 2/fan_in, which keeps a rectifier network's activations at their size.

    NORMAL is the lecture's N(0, sqrt(2/n_in)).
    """

    distribution: InitializerDistribution = hyper(InitializerDistribution.TRUNCATED_NORMAL)

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / max(1, fan_in)
