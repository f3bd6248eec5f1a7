"""One cycle (Smith and Topin, 2018, arXiv:1708.07120), as in PyTorch and in optax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.schedules.annealing import Annealing, anneal_rate
from optserve_server.schedules.base import Rates, Schedule, Steps


class OneCycleForm(StrEnum):
    """At which step a part of the cycle ends."""

    LAST_STEP = "LAST_STEP"
    STEP_COUNT = "STEP_COUNT"


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From max/div_factor up to max at the end of the part pct_start of the cycle, then down to
    max/(div_factor*final_div_factor) at the end of the cycle, where it stays.

    With `three_phase` it first falls to the first rate, at the end of the part pct_final, or in
    as many steps as it rose if that is 0. A part f of the cycle ends at step

    LAST_STEP   f*total - 1        (PyTorch's OneCycleLR)
    STEP_COUNT  floor(f*total)     (optax' cosine_onecycle_schedule; linear_onecycle_schedule is
                                   LINEAR in three phases)
    """

    max_learning_rate: float = hyper(ge=0)
    total_steps: int = hyper(ge=1)
    pct_start: float = hyper(0.3, ge=0, le=1)
    annealing: Annealing = hyper(Annealing.COSINE, allowed=(Annealing.COSINE, Annealing.LINEAR))
    div_factor: float = hyper(25.0, gt=0)
    final_div_factor: float = hyper(1e4, gt=0)
    three_phase: bool = hyper(False)

    pct_final: float = hyper(0.0, optax=0.85, ge=0, le=1)
    form: OneCycleForm = hyper(OneCycleForm.LAST_STEP, optax=OneCycleForm.STEP_COUNT)

    def validate(self) -> None:
        if not self.three_phase:
            return
        if not self.pct_final and self.pct_start > 0.5:
            text = f"pct_start is {self.pct_start}, but must be at most 0.5 in three phases"
            raise conflict_error("pct_start", text)
        if self.pct_final and self.pct_start > self.pct_final:
            text = f"pct_final is {self.pct_final}, but must be 0 or at least pct_start, {self.pct_start}"
            raise conflict_error("pct_final", text)

    def curve(self, steps: Steps) -> Rates:
        start, s = 0.0, steps.astype(np.float64)
        rates = np.full(len(s), self._final_rate)
        waiting = np.ones(len(s), np.bool_)
        for end, first, last in self._phases():
            mine = waiting & (s <= end)
            # A phase of no length has only its end.
            fraction = (s[mine] - start) / (end - start) if end != start else np.ones(mine.sum())
            rates[mine] = anneal_rate(self.annealing, first, last, fraction)
            waiting &= ~mine
            start = end
        return rates

    @property
    def _final_rate(self) -> float:
        return self.max_learning_rate / self.div_factor / self.final_div_factor

    def _phases(self) -> list[tuple[float, float, float]]:
        """The last step of each phase, and the rates between which it goes."""
        first, top = self.max_learning_rate / self.div_factor, self.max_learning_rate
        risen, end = self._phase_end(self.pct_start), self._phase_end(1.0)
        if self.three_phase:
            fallen = self._phase_end(self.pct_final) if self.pct_final else 2 * risen
            return [(risen, first, top), (fallen, top, first), (end, first, self._final_rate)]
        return [(risen, first, top), (end, top, self._final_rate)]

    def _phase_end(self, part: float) -> float:
        """The step at which a part of the cycle ends."""
        if self.form is OneCycleForm.STEP_COUNT:
            return float(math.floor(part * self.total_steps))
        return part * self.total_steps - 1
