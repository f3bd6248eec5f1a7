"""One rate throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class Constant(Schedule):
    """value."""

    value: float = hyper(ge=0)

    def curve(self, steps: Steps) -> Rates:
        return np.full(len(steps), self.value)
