"""A factor at each milestone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.step_boundaries import require_increasing


@dataclass(frozen=True)
class MultiStepDecay(Schedule):
    """lr*gamma^(number of milestones <= s) (PyTorch's MultiStepLR)."""

    initial_learning_rate: float = hyper(ge=0)
    milestones: tuple[int, ...] = hyper()
    gamma: float = hyper(0.1, ge=0)

    def validate(self) -> None:
        require_increasing("milestones", self.milestones, least=0)

    def curve(self, steps: Steps) -> Rates:
        if not self.initial_learning_rate:
            return np.zeros(len(steps))
        passed = np.searchsorted(self._milestone_array, steps, "right")
        return self.initial_learning_rate * np.power(self.gamma, passed)

    @functools.cached_property
    def _milestone_array(self) -> Steps:
        return np.array(self.milestones, np.int64)
