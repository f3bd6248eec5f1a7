"""One cycle (Smith and Topin, 2018, arXiv:1708.07120), as in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optserve_server.errors import DomainError, Reason
from optserve_server.hyper import hyper
from optserve_server.schedules.annealing import Annealing, annealed
from optserve_server.schedules.base import Rates, Schedule, Steps


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From max/div_factor up to max at step pct_start*total - 1, then down to
    max/(div_factor*final_div_factor) at step total - 1, where it stays.

    With `three_phase` it first falls to the first rate, in as many steps as it rose.
    """

    name: ClassVar[str] = "one_cycle"

    max_learning_rate: float = hyper(ge=0)
    total_steps: int = hyper(ge=1)
    pct_start: float = hyper(0.3, ge=0, le=1)
    annealing: Annealing = hyper(Annealing.COSINE, allowed=(Annealing.COSINE, Annealing.LINEAR))
    div_factor: float = hyper(25.0, gt=0)
    final_div_factor: float = hyper(1e4, gt=0)
    three_phase: bool = hyper(False)

    def validate(self) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise DomainError(
                Reason.CONFLICTING_FIELDS,
                f"pct_start is {self.pct_start}, but must be at most 0.5 in three phases",
                field="pct_start",
            )

    def curve(self, steps: Steps) -> Rates:
        start, s = 0.0, steps.astype(np.float64)
        rates = np.full(len(s), self._lowest)
        waiting = np.ones(len(s), np.bool_)
        for end, first, last in self._phases():
            mine = waiting & (s <= end)
            # A phase of no length has only its end.
            fraction = (s[mine] - start) / (end - start) if end != start else np.ones(mine.sum())
            rates[mine] = annealed(self.annealing, first, last, fraction)
            waiting &= ~mine
            start = end
        return rates

    @property
    def _lowest(self) -> float:
        return self.max_learning_rate / self.div_factor / self.final_div_factor

    def _phases(self) -> list[tuple[float, float, float]]:
        """The last step of each phase, and the rates between which it goes."""
        first, top = self.max_learning_rate / self.div_factor, self.max_learning_rate
        risen, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if self.three_phase:
            fallen = 2 * self.pct_start * self.total_steps - 2
            return [(risen, first, top), (fallen, top, first), (end, first, self._lowest)]
        return [(risen, first, top), (end, top, self._lowest)]
