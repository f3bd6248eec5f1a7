"""Polynomial decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class Polynomial(Schedule):
    """(initial - end)*(1 - s/steps)^power + end, and end afterwards.

    With `cycle` steps is multiplied by ceil(s/steps), so that the rate rises again after
    each period, to less each time (Keras).
    """

    initial_learning_rate: float = hyper(ge=0)
    decay_steps: float = hyper(gt=0)
    end_learning_rate: float = hyper(1e-4, torch=0.0, ge=0)
    power: float = hyper(1.0, ge=0)
    cycle: bool = hyper(False)

    def curve(self, steps: Steps) -> Rates:
        whole = np.full(len(steps), self.decay_steps)
        if self.cycle:
            whole *= np.maximum(np.ceil(steps / self.decay_steps), 1)
        # At most 1: neither after the end, nor by rounding before it.
        left: Rates = (1 - np.minimum(steps / whole, 1)) ** self.power
        return (self.initial_learning_rate - self.end_learning_rate) * left + self.end_learning_rate
