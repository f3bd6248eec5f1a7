"""Base of losses that compare sums over the axes of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats, Loss


@dataclass(frozen=True)
class OverlapLoss(Loss):
    """1 - a ratio of sums over the axes of a mask.

    Attributes:
        axes: the axes that are summed over, none meaning all: then there is one loss.
    """

    axes: tuple[int, ...] = hyper(())
    epsilon: float = hyper(1e-7, ge=1e-30)

    def _example_axes(self, rank: int) -> tuple[int, ...]:
        return self.axes or tuple(range(rank))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        if len({axis % len(shape) for axis in self.axes}) < len(self.axes):
            raise conflict_error("axes", f"axes are {list(self.axes)}, which names one of them twice")

    def _sum(self, values: Floats) -> Floats:
        """The sum over the axes, which are kept, in float64."""
        total: Floats = np.sum(values, axis=self._example_axes(values.ndim), keepdims=True, dtype=np.float64)
        return total
