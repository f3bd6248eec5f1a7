"""What a schedule is: a learning rate as a function of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.hyper import Hyperparameters


@dataclass(frozen=True)
class Schedule(Hyperparameters, ABC):
    """A learning rate by step."""

    name: ClassVar[str]

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of the update that follows ``step`` earlier ones, float64."""
