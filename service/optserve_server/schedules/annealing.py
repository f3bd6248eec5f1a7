"""Interpolation between two rates."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from optserve_server.schedules.base import Rates


class Annealing(StrEnum):
    """How a rate goes from one value to another."""

    COSINE = "COSINE"
    LINEAR = "LINEAR"
    SQUARE_ROOT = "SQUARE_ROOT"


def anneal_rate(form: Annealing, first: float | Rates, last: float | Rates, fraction: Rates) -> Rates:
    """The rate at a fraction of the way, which is clipped to [0, 1]."""
    fraction = np.clip(fraction, 0, 1)
    if form is Annealing.COSINE:
        return last + (first - last) / 2 * (1 + np.cos(np.pi * fraction))
    if form is Annealing.SQUARE_ROOT:
        fraction = np.sqrt(fraction)
    return first + (last - first) * fraction
