"""A normal distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.draws import Draws


@dataclass(frozen=True)
class Normal(Initializer):
    """mean + stddev*z with z normal."""

    mean: float = hyper(0.0)
    stddev: float = hyper(0.05, ge=0)

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        return self.mean + self.stddev * draws.draw_normal(shape)
