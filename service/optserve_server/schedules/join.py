"""Schedules one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import Chosen, hyper
from optserve_server.schedules.base import Rates, Schedule, Steps
from optserve_server.schedules.nesting import check_nesting
from optserve_server.schedules.step_boundaries import require_increasing


@dataclass(frozen=True)
class Join(Schedule):
    """`schedules[i](s - boundaries[i - 1])`, where i is the number of boundaries <= s."""

    schedules: tuple[Chosen[Schedule], ...] = hyper()
    boundaries: tuple[int, ...] = hyper()

    @property
    def nested_schedules(self) -> tuple[Schedule, ...]:
        return tuple(chosen.algorithm for chosen in self.schedules)

    def validate(self) -> None:
        require_increasing("boundaries", self.boundaries, least=0)
        if len(self.schedules) != len(self.boundaries) + 1:
            raise conflict_error(
                "schedules",
                f"there are {len(self.schedules)} schedules for {len(self.boundaries)} boundaries, "
                f"but there must be {len(self.boundaries) + 1}",
            )
        check_nesting(self)

    def curve(self, steps: Steps) -> Rates:
        turn = np.searchsorted(np.array(self.boundaries, np.int64), steps, "right")
        rates = np.empty(len(steps))
        for index in np.unique(turn):
            mine, start = turn == index, self.boundaries[index - 1] if index else 0
            rates[mine] = self.schedules[index].algorithm.curve(steps[mine] - start)
        return rates
