"""Override of a hyperparameter for one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Override:
    """A hyperparameter's value for one step.

    Attributes:
        group: name of the parameter group, empty for the default group; None for every group.
        name: name of the hyperparameter.
        value: its value.
    """

    group: str | None
    name: str
    value: float
