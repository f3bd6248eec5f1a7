"""A linear start before another schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import Chosen, hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.nesting import check_nesting


@dataclass(frozen=True)
class Warmup(Schedule):
    """A line from initial to schedule(0) over warmup_steps, then schedule(s - warmup_steps)."""

    schedule: Chosen[Schedule] = hyper()
    warmup_steps: int = hyper(ge=0)
    initial_learning_rate: float = hyper(0.0, ge=0)

    @property
    def nested_schedules(self) -> tuple[Schedule, ...]:
        return (self.schedule.algorithm,)

    def validate(self) -> None:
        check_nesting(self)

    def curve(self, steps: Steps) -> Rates:
        schedule, warm = self.schedule.algorithm, steps >= self.warmup_steps
        rise = (schedule.rate(0) - self.initial_learning_rate) / max(self.warmup_steps, 1)
        rates: Rates = self.initial_learning_rate + rise * steps.astype(np.float64)
        rates[warm] = schedule.curve(steps[warm] - self.warmup_steps)
        return rates
