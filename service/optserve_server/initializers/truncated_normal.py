"""A normal distribution redrawn outside two standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.draws import Draws

STDDEV = 0.87962566103423978
"""The standard deviation of a standard normal truncated at two standard deviations."""


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """mean + stddev*z with z normal and redrawn where |z| > 2.

    ``stddev`` is that before truncation; what is drawn has 0.88 of it (Keras).
    """

    mean: float = hyper(0.0)
    stddev: float = hyper(0.05, ge=0)

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        return self.mean + self.stddev * draws.draw_truncated_normal(shape)
