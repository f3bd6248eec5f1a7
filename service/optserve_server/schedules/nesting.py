"""Limit of the nesting of schedules."""

from __future__ import annotations

from optserve_server.errors import DomainError, Reason
from optserve_server.schedules.base import Schedule

MAX_DEPTH, MAX_COUNT = 8, 64
"""Schedules one within another, and schedules in all."""


def check_nesting(schedule: Schedule) -> None:
    """Refuses a schedule that holds too many.

    Raises:
        DomainError: LIMIT_EXCEEDED.
    """
    for limit, actual, words in (
        (MAX_DEPTH, nesting_depth(schedule), "within one another"),
        (MAX_COUNT, count_schedules(schedule), "in one"),
    ):
        if actual > limit:
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"{actual} schedules {words}, but there must be at most {limit}",
                metadata={"limit": "max_nested_schedules", "value": limit},
            )


def nesting_depth(schedule: Schedule) -> int:
    """1 for a schedule that holds no other."""
    return 1 + max((nesting_depth(part) for part in schedule.nested_schedules), default=0)


def count_schedules(schedule: Schedule) -> int:
    """The schedule and all within it."""
    return 1 + sum(count_schedules(part) for part in schedule.nested_schedules)
