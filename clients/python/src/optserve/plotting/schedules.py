"""Curves of schedules, as the server evaluates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optserve.client import Client
from optserve.plotting.plot_items import Item
from optserve.specs.schedules import Schedule


@dataclass(frozen=True)
class ScheduleCurve:
    """A schedule over steps.

    Attributes:
        label: what it is called in the picture.
        steps: int64, 0 and upwards.
        rates: float64, the learning rate of each step.
    """

    label: str
    steps: NDArray[np.int64]
    rates: NDArray[np.float64]


def schedule_curves(client: Client, items: Sequence[Item[Schedule]], steps: int) -> list[ScheduleCurve]:
    """Each schedule over its first ``steps`` steps.

    Raises:
        InvalidArgument: a schedule is wrong.
        OptserveError: the server refused otherwise, or could not be reached.
    """
    at = np.arange(steps)
    return [ScheduleCurve(i.label, at, client.evaluate_schedule(i.spec, range(steps))) for i in items]
