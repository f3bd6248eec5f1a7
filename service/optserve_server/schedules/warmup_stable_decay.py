"""Up, level, down (Hu et al., 2024, MiniCPM, arXiv:2404.06395)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.annealing import Annealing, anneal_rate
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Linear from initial to peak, then peak, then by `annealing` to end, where it stays.

    SQUARE_ROOT goes down as 1 - sqrt (Hägele et al., 2024, arXiv:2405.18392).
    """

    peak_learning_rate: float = hyper(ge=0)
    warmup_steps: int = hyper(ge=0)
    stable_steps: int = hyper(ge=0)
    decay_steps: int = hyper(ge=1)
    initial_learning_rate: float = hyper(0.0, ge=0)
    end_learning_rate: float = hyper(0.0, ge=0)
    annealing: Annealing = hyper(Annealing.LINEAR)

    def curve(self, steps: Steps) -> Rates:
        rise = (self.peak_learning_rate - self.initial_learning_rate) / max(self.warmup_steps, 1)
        fallen = (steps - float(self.warmup_steps) - float(self.stable_steps)) / self.decay_steps
        fall = anneal_rate(self.annealing, self.peak_learning_rate, self.end_learning_rate, fallen)
        return np.where(steps < self.warmup_steps, self.initial_learning_rate + rise * steps, fall)
