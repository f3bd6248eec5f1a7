"""Exponential decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.hyper import hyper
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.periods import periods


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr*rate^(s/steps); a staircase floors the exponent.

    Infinite where a decay rate above 1 leaves the range of float64.
    """

    name: ClassVar[str] = "exponential"

    initial_learning_rate: float = hyper(ge=0)
    decay_steps: float = hyper(gt=0)
    decay_rate: float = hyper(gt=0)
    staircase: bool = hyper(False)

    def rate(self, step: int) -> float:
        try:
            factor = float(self.decay_rate ** periods(step, self.decay_steps, self.staircase))
        except OverflowError:
            factor = math.inf
        return self.initial_learning_rate * factor if self.initial_learning_rate else 0.0
