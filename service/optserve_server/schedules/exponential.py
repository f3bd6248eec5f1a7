"""Exponential decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.decay_periods import count_decay_periods


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr*rate^(s/steps); a staircase floors the exponent. An end rate bounds it unless 0.

    Infinite where a decay rate above 1 leaves the range of float64.
    """

    initial_learning_rate: float = hyper(ge=0)
    decay_steps: float = hyper(gt=0)
    decay_rate: float = hyper(gt=0)
    staircase: bool = hyper(False)
    end_learning_rate: float = hyper(0.0, ge=0)

    def curve(self, steps: Steps) -> Rates:
        if not self.initial_learning_rate:
            return np.zeros(len(steps))  # not a zero times infinity
        factors = np.power(self.decay_rate, count_decay_periods(steps, self.decay_steps, self.staircase))
        rates: Rates = self.initial_learning_rate * factors
        if not self.end_learning_rate:
            return rates
        limit = np.maximum if self.decay_rate < 1 else np.minimum
        return limit(rates, self.end_learning_rate)
