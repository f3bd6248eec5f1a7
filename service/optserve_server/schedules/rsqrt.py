"""The inverse square root of the step (Vaswani et al., 2017, arXiv:1706.03762, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class Rsqrt(Schedule):
    """peak*min(t/warmup_steps, sqrt(warmup_steps/t)), t = s + 1.

    The paper's d^-0.5*min(t^-0.5, t*warmup_steps^-1.5) is that of peak = (d*warmup_steps)^-0.5.
    """

    peak_learning_rate: float = hyper(ge=0)
    warmup_steps: float = hyper(gt=0)

    def curve(self, steps: Steps) -> Rates:
        t = steps + 1.0
        part: Rates = np.minimum(t / self.warmup_steps, np.sqrt(self.warmup_steps / t))
        return self.peak_learning_rate * part
