"""Rates interpolated between points, as optax' piecewise_interpolate_schedule."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.annealing import Annealing, anneal_rate
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.step_boundaries import require_increasing, require_values


@dataclass(frozen=True)
class PiecewiseInterpolation(Schedule):
    """From values[i] at boundaries[i - 1], or 0 for i = 0, to values[i + 1] at boundaries[i].

    The last value holds from the last boundary on.
    """

    boundaries: tuple[int, ...] = hyper()
    values: tuple[float, ...] = hyper()
    annealing: Annealing = hyper(Annealing.LINEAR)

    def validate(self) -> None:
        require_increasing("boundaries", self.boundaries, least=1)
        require_values(self.values, self.boundaries)

    def curve(self, steps: Steps) -> Rates:
        points, values = self._point_and_value_arrays
        last = len(points) - 1
        i = np.minimum(np.searchsorted(points, steps, "right") - 1, last - 1)
        fraction = (steps - points[i]) / (points[i + 1] - points[i])
        rates = anneal_rate(self.annealing, values[i], values[i + 1], fraction)
        return np.where(steps >= points[last], values[last], rates)

    @functools.cached_property
    def _point_and_value_arrays(self) -> tuple[Steps, Rates]:
        """The steps at which values are reached, and the values, made once for all steps of a session."""
        return np.array((0, *self.boundaries), np.int64), np.array(self.values, np.float64)
