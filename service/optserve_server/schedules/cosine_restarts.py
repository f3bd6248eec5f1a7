"""Cosine decay with warm restarts (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """lr*((1 - alpha)*m_mul^i*(1 + cos(pi*f))/2 + alpha), at the fraction f of decay i.

    Decay i takes first_decay_steps*t_mul^i steps. It starts at the very step at which
    the one before ends.
    """

    initial_learning_rate: float = hyper(ge=0)
    first_decay_steps: float = hyper(gt=0)
    t_mul: float = hyper(2.0, torch=1.0, ge=1)
    m_mul: float = hyper(1.0, ge=0)
    alpha: float = hyper(0.0, ge=0)

    def curve(self, steps: Steps) -> Rates:
        if self.t_mul == 1:
            # Divided last: far out the quotient has few digits left behind its point.
            restarts, within = np.divmod(steps.astype(np.float64), self.first_decay_steps)
            fraction = within / self.first_decay_steps
        else:
            restarts, fraction = self._find_cycle_position(steps / self.first_decay_steps)
        wave: Rates = 0.5 * self.m_mul**restarts * (1 + np.cos(np.pi * fraction))
        return self.initial_learning_rate * ((1 - self.alpha) * wave + self.alpha)

    def _find_cycle_position(self, decays: Rates) -> tuple[Rates, Rates]:
        """How many decays have ended, and the fraction of the present one.

        Args:
            decays: steps in units of the first decay.
        """
        restarts = np.floor(np.log1p(decays * (self.t_mul - 1)) / np.log(self.t_mul))
        # The logarithm may be off by one right at a restart.
        restarts += self._cycle_start(restarts + 1) <= decays * (1 + 1e-12)
        restarts -= self._cycle_start(restarts) > decays * (1 + 1e-12)
        fraction = (decays - self._cycle_start(restarts)) / self.t_mul**restarts
        return restarts, np.clip(fraction, 0, 1)

    def _cycle_start(self, restarts: Rates) -> Rates:
        """Where a decay starts, in units of the first."""
        return (self.t_mul**restarts - 1) / (self.t_mul - 1)
