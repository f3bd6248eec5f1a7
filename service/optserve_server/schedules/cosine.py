"""Cosine decay (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class Cosine(Schedule):
    """lr*((1 - alpha)*((1 + cos(pi*s/steps))/2)^exponent + alpha), and lr*alpha afterwards.

    With `periodic` the formula holds afterwards as well, so that the rate rises again and
    has a period of 2*steps (PyTorch's CosineAnnealingLR).

    With a warm-up (Keras): linear from the initial rate to `warmup_target`, which then
    decays from there, with s counted from 0 again.
    """

    initial_learning_rate: float = hyper(ge=0)
    decay_steps: float = hyper(gt=0)
    alpha: float = hyper(0.0, ge=0)
    warmup_steps: float = hyper(0.0, ge=0)
    warmup_target: float = hyper(0.0, ge=0)
    periodic: bool = hyper(False, torch=True)
    exponent: float = hyper(1.0, gt=0)

    def validate(self) -> None:
        if bool(self.warmup_steps) != bool(self.warmup_target):
            missing = "warmup_target" if self.warmup_steps else "warmup_steps"
            raise conflict_error(missing, f"{missing} is 0, but a warm-up has both steps and a target")

    def curve(self, steps: Steps) -> Rates:
        after = steps - self.warmup_steps
        if self.periodic:
            # The remainder first: far out the quotient has few digits left behind its point.
            fraction = np.mod(np.maximum(after, 0), 2 * self.decay_steps) / self.decay_steps
        else:
            fraction = np.clip(after / self.decay_steps, 0, 1)
        wave = 0.5 * (1 + np.cos(np.pi * fraction))
        if self.exponent != 1:
            wave = np.power(wave, self.exponent)
        part: Rates = (1 - self.alpha) * wave + self.alpha
        if not self.warmup_steps:
            return self.initial_learning_rate * part
        slope = (self.warmup_target - self.initial_learning_rate) / self.warmup_steps
        return np.where(after < 0, self.initial_learning_rate + slope * steps, self.warmup_target * part)
