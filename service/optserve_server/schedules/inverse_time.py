"""Inverse-time decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.decay_periods import count_decay_periods


@dataclass(frozen=True)
class InverseTime(Schedule):
    """lr/(1 + rate*s/steps); a staircase floors s/steps."""

    initial_learning_rate: float = hyper(ge=0)
    decay_steps: float = hyper(gt=0)
    decay_rate: float = hyper(ge=0)
    staircase: bool = hyper(False)

    def curve(self, steps: Steps) -> Rates:
        if not self.decay_rate:
            return np.full(len(steps), self.initial_learning_rate)
        growth = self.decay_rate * count_decay_periods(steps, self.decay_steps, self.staircase)
        return self.initial_learning_rate / (1 + growth)
