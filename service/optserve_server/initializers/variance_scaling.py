"""Initializers whose variance follows from how many units a tensor connects."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.draws import Draws
from optserve_server.initializers.truncated_normal import STDDEV


class FanMode(StrEnum):
    """What a variance is divided by: units in, units out, or the mean of both."""

    IN = "IN"
    OUT = "OUT"
    AVERAGE = "AVERAGE"


class InitializerDistribution(StrEnum):
    """Shape of a variance-scaling initializer's distribution."""

    UNIFORM = "UNIFORM"
    NORMAL = "NORMAL"
    TRUNCATED_NORMAL = "TRUNCATED_NORMAL"


def compute_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many units a tensor of ``shape`` takes in and gives out, as Keras counts.

    A matrix is [in, out] and a convolution kernel [..., in, out], where every position of
    its field counts. A vector counts its length for both, a scalar 1.
    """
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def draw_centred(
    distribution: InitializerDistribution, variance: float, shape: tuple[int, ...], draws: Draws
) -> npt.NDArray[np.float64]:
    """Draws of mean 0 and the given variance."""
    if distribution is InitializerDistribution.UNIFORM:
        limit = math.sqrt(3 * variance)
        return -limit + 2 * limit * draws.draw_uniform(shape)
    if distribution is InitializerDistribution.NORMAL:
        return np.asarray(math.sqrt(variance) * draws.draw_normal(shape))
    return math.sqrt(variance) / STDDEV * draws.draw_truncated_normal(shape)


@dataclass(frozen=True)
class FanInitializer(Initializer):
    """Draws of mean 0 and a variance that follows from the fans."""

    distribution: InitializerDistribution = hyper(InitializerDistribution.TRUNCATED_NORMAL)

    @abstractmethod
    def variance(self, fan_in: int, fan_out: int) -> float:
        """The variance of each element."""

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        return draw_centred(self.distribution, self.variance(*compute_fans(shape)), shape, draws)


@dataclass(frozen=True)
class VarianceScaling(FanInitializer):
    """Variance scale/fan, as Keras' initializer of that name."""

    scale: float = hyper(1.0, gt=0)
    mode: FanMode = hyper(FanMode.IN)

    def variance(self, fan_in: int, fan_out: int) -> float:
        fan = {FanMode.IN: fan_in, FanMode.OUT: fan_out, FanMode.AVERAGE: (fan_in + fan_out) / 2}[self.mode]
        return self.scale / max(1.0, fan)
