"""What one makes alone and many make at once, by which shared syncs are judged."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.clients import throughput, together
from benchmarks.contenders.remote import Remote
from benchmarks.results import Finding, Result, Spread

GROUP = "journal"
SMALL, MANY = 10_000, 16


def rates(clients: Sequence[Remote], seconds: float) -> tuple[float, float]:
    """Steps per second of the first client alone, and of all together."""
    return throughput(together(clients[:1], seconds)), throughput(together(clients, seconds))


def rows(one: str, many: str, rounds: Sequence[tuple[float, float]]) -> Iterator[Finding]:
    """The figures of one and of many, and how many times the one's the many's are.

    Args:
        one: the row of one alone.
        many: the row of all together.
        rounds: steps per second of both.
    """
    ratios = [all_of_them / alone for alone, all_of_them in rounds]
    total = statistics.median(all_of_them for _, all_of_them in rounds)
    yield Result(GROUP, one, SMALL, statistics.median(alone for alone, _ in rounds), "steps/s")
    yield Result(GROUP, many, SMALL, total, "steps/s", one, statistics.median(ratios))
    yield Spread(GROUP, many, SMALL, one, min(ratios), max(ratios))
