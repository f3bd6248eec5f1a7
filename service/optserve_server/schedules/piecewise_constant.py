"""One learning rate between each pair of boundaries."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.step_boundaries import require_increasing, require_values


class BoundarySide(StrEnum):
    """Which value holds on a boundary itself: the one before it or the one after it."""

    BEFORE = "BEFORE"
    AFTER = "AFTER"


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """values[i], where i is by `boundary_side` the number of

    BEFORE  boundaries < s   (Keras)
    AFTER   boundaries <= s  (PyTorch, optax)
    """

    boundaries: tuple[int, ...] = hyper()
    values: tuple[float, ...] = hyper()
    boundary_side: BoundarySide = hyper(
        BoundarySide.BEFORE, torch=BoundarySide.AFTER, optax=BoundarySide.AFTER
    )

    def validate(self) -> None:
        require_increasing("boundaries", self.boundaries, least=0)
        require_values(self.values, self.boundaries)

    def curve(self, steps: Steps) -> Rates:
        side: Literal["left", "right"] = "left" if self.boundary_side is BoundarySide.BEFORE else "right"
        boundaries, values = self._boundary_and_value_arrays
        return values[np.searchsorted(boundaries, steps, side)]

    @functools.cached_property
    def _boundary_and_value_arrays(self) -> tuple[Steps, Rates]:
        """Boundaries and values, which may be long, made once for all steps of a session."""
        return np.array(self.boundaries, np.int64), np.array(self.values, np.float64)
