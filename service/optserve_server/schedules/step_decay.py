"""A factor after every fixed number of steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class StepDecay(Schedule):
    """lr*gamma^floor(s/step_size) (PyTorch's StepLR)."""

    initial_learning_rate: float = hyper(ge=0)
    step_size: int = hyper(ge=1)
    gamma: float = hyper(0.1, ge=0)

    def curve(self, steps: Steps) -> Rates:
        if not self.initial_learning_rate:
            return np.zeros(len(steps))
        return self.initial_learning_rate * np.power(self.gamma, steps // self.step_size)
