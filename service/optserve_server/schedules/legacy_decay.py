"""The decay argument of Keras' legacy optimizers, on top of any schedule."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.hyperparameters import Chosen, hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.nesting import check_nesting


@dataclass(frozen=True)
class LegacyDecay(Schedule):
    """schedule(s)/(1 + decay*s)."""

    schedule: Chosen[Schedule] = hyper()
    decay: float = hyper(ge=0)

    @property
    def nested_schedules(self) -> tuple[Schedule, ...]:
        return (self.schedule.algorithm,)

    def validate(self) -> None:
        check_nesting(self)

    def curve(self, steps: Steps) -> Rates:
        return self.schedule.algorithm.curve(steps) / (1 + self.decay * steps)
