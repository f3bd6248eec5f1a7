"""Schedules: the learning rate of the update that follows ``step`` earlier ones."""

from __future__ import annotations

import math
from collections.abc import Sequence


def progress(step: int, decay_steps: float, staircase: bool) -> float:
    return math.floor(step / decay_steps) if staircase else step / decay_steps


def exponential(
    step: int, *, initial: float, decay_steps: float, decay_rate: float, staircase: bool
) -> float:
    return initial * math.pow(decay_rate, progress(step, decay_steps, staircase))


def inverse_time(
    step: int, *, initial: float, decay_steps: float, decay_rate: float, staircase: bool
) -> float:
    return initial / (1 + decay_rate * progress(step, decay_steps, staircase))


def piecewise_constant(step: int, *, boundaries: Sequence[int], values: Sequence[float], side: str) -> float:
    passed = [step > b if side == "BEFORE" else step >= b for b in boundaries]
    return values[sum(passed)]
