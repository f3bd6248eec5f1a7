"""A normal distribution redrawn outside two standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer

STDDEV = 0.87962566103423978
"""The standard deviation of a standard normal truncated at two standard deviations."""

_ROUNDS = 64
"""One draw in 22 is outside, so no tensor that fits into memory needs as many."""


def draw_truncated(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Standard normal numbers in [-2, 2], by redrawing those outside."""
    z = np.asarray(rng.standard_normal(shape)).reshape(-1)
    for _ in range(_ROUNDS):
        outside = np.flatnonzero(np.abs(z) > 2)
        if not outside.size:
            break
        z[outside] = rng.standard_normal(outside.size)
    return np.clip(z, -2, 2).reshape(shape)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """mean + stddev*z with z normal and redrawn where |z| > 2.

    ``stddev`` is that before truncation; what is drawn has 0.88 of it (Keras).
    """

    mean: float = hyper(0.0)
    stddev: float = hyper(0.05, ge=0)

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        return self.mean + self.stddev * draw_truncated(shape, rng)
