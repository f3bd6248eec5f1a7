"""Cyclical learning rates (Smith, 2017, arXiv:1506.01186), as in PyTorch's CyclicLR."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


class CyclicForm(StrEnum):
    """What the height of a cycle is multiplied by."""

    TRIANGULAR = "TRIANGULAR"
    TRIANGULAR2 = "TRIANGULAR2"
    EXP_RANGE = "EXP_RANGE"


@dataclass(frozen=True)
class Cyclic(Schedule):
    """base + (max - base)*x*h: x rises from 0 to 1 in step_size_up steps and falls to 0 in step_size_down.

    In cycle number c, counted from 0, the height h is by `form`

    TRIANGULAR   1
    TRIANGULAR2  2^-c
    EXP_RANGE    gamma^s
    """

    base_learning_rate: float = hyper(ge=0)
    max_learning_rate: float = hyper(ge=0)
    step_size_up: float = hyper(2000.0, gt=0)
    step_size_down: float = hyper(0.0, ge=0)
    form: CyclicForm = hyper(CyclicForm.TRIANGULAR)
    gamma: float = hyper(1.0, gt=0)

    def validate(self) -> None:
        if self.max_learning_rate < self.base_learning_rate:
            least = self.base_learning_rate
            text = f"max_learning_rate is {self.max_learning_rate}, but must be at least {least}, the base"
            raise conflict_error("max_learning_rate", text)

    def curve(self, steps: Steps) -> Rates:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        # Divided last: far out the quotient has few digits left behind its point.
        cycles, within = np.divmod(steps.astype(np.float64), up + down)
        part = np.where(within <= up, within / up, (up + down - within) / down)
        height: Rates = (self.max_learning_rate - self.base_learning_rate) * part
        if self.form is CyclicForm.TRIANGULAR2:
            height = np.ldexp(height, -np.minimum(cycles, 2000).astype(np.int64))
        elif self.form is CyclicForm.EXP_RANGE:
            height *= np.power(self.gamma, steps.astype(np.float64))
        return self.base_learning_rate + height
