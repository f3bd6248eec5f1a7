"""Schedules multiplied, as PyTorch's ChainedScheduler multiplies the factors of its schedulers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen, hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.nesting import check_nesting


@dataclass(frozen=True)
class Product(Schedule):
    """The product of `schedules[i](s)`, from the first to the last."""

    schedules: tuple[Chosen[Schedule], ...] = hyper()

    @property
    def nested_schedules(self) -> tuple[Schedule, ...]:
        return tuple(chosen.algorithm for chosen in self.schedules)

    def validate(self) -> None:
        if not self.schedules:
            raise DomainError(Reason.FIELD_REQUIRED, "schedules is required", field="schedules")
        check_nesting(self)

    def curve(self, steps: Steps) -> Rates:
        rates = np.ones(len(steps))
        for schedule in self.nested_schedules:
            rates *= schedule.curve(steps)
        return rates
