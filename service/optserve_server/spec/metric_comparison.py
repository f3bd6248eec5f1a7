"""Comparison of values of a metric."""

from __future__ import annotations

import math
from enum import StrEnum


class MetricMode(StrEnum):
    """Which values of a metric are better."""

    MIN = "MIN"
    MAX = "MAX"


def is_better(value: float, reference: float, mode: MetricMode) -> bool:
    """Whether ``value`` is better than ``reference``; a NaN never is."""
    return value < reference if mode is MetricMode.MIN else value > reference


def improvement_threshold(value: float, by: float, mode: MetricMode) -> float:
    """Returns ``value`` made worse by a margin that a better value has to exceed."""
    return value + by if mode is MetricMode.MIN else value - by


def worst_value(mode: MetricMode) -> float:
    """What any value is better than that can be better than anything."""
    return math.inf if mode is MetricMode.MIN else -math.inf
