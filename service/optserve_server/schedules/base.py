"""Base class of schedules: a learning rate as a function of the step."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import Algorithm

Steps: TypeAlias = npt.NDArray[np.int64]
"""Steps, each at least 0: how many updates came before."""
Rates: TypeAlias = npt.NDArray[np.float64]
"""Learning rates, one for each step."""


@dataclass(frozen=True)
class Schedule(Algorithm):
    """A learning rate by step."""

    @abstractmethod
    def curve(self, steps: Steps) -> Rates:
        """The rates at ``steps``. What leaves float64 on the way becomes infinite without a word."""

    def rates(self, steps: Steps) -> Rates:
        """The learning rates of the updates that follow ``steps`` earlier ones, float64, as many."""
        with np.errstate(all="ignore"):
            return self.curve(steps)

    def rate(self, step: int) -> float:
        """The learning rate of the update that follows ``step`` earlier ones: the same bits."""
        return float(self.rates(np.array([step], np.int64))[0])

    @property
    def nested_schedules(self) -> tuple[Schedule, ...]:
        """The schedules within this one."""
        return ()
