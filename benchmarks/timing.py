"""Timing side by side: every contender in turn, round after round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.results import Finding, Result, Spread

Timed = Callable[[int], float]
"""Makes so many calls and returns the seconds that they took together."""

MOST_CALLS = 100_000


@dataclass(frozen=True)
class Times:
    """Seconds of one call, by contender and round.

    Attributes:
        seconds: for each contender its rounds, in the order in which they were run.
    """

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """A contender's median over the rounds."""
        return statistics.median(self.seconds[name])

    def better(self, names: list[str]) -> str:
        """The contender with the least median."""
        return min(names, key=self.median)

    def ratios(self, name: str, peer: str) -> list[float]:
        """A contender's seconds over its peer's, round by round."""
        return [own / its for own, its in zip(self.seconds[name], self.seconds[peer], strict=True)]

    def rates(
        self, group: str, name: str, n: int, unit: str, amount: float, peer: str = "", label: str = ""
    ) -> Iterator[Finding]:
        """A result whose value is ``amount`` per second, the greater the better.

        Args:
            group: of the result.
            name: the contender.
            n: of the result.
            unit: of the value.
            amount: what one call does, in the unit times seconds.
            peer: the contender to compare with; empty for none.
            label: what to call the peer in the result; its own name where empty.
        """
        value = amount / self.median(name)
        if not peer:
            yield Result(group, name, n, value, unit)
            return
        ratios = [1 / ratio for ratio in self.ratios(name, peer)]
        yield Result(group, name, n, value, unit, label or peer, statistics.median(ratios))
        yield Spread(group, name, n, label or peer, min(ratios), max(ratios))

    def durations(self, group: str, name: str, n: int, peer: str = "") -> Iterator[Finding]:
        """A result in microseconds, the smaller the better."""
        value = self.median(name) * 1e6
        if not peer:
            yield Result(group, name, n, value, "us")
            return
        ratios = self.ratios(name, peer)
        yield Result(group, name, n, value, "us", peer, statistics.median(ratios))
        yield Spread(group, name, n, peer, min(ratios), max(ratios))


def repeat(call: Callable[[], object]) -> Timed:
    """Times a call of this process."""

    def time_calls(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start

    return time_calls


def interleave(contenders: Mapping[str, Timed], rounds: int, seconds: float) -> Times:
    """Measures all contenders in turn, ``rounds`` times.

    Args:
        contenders: what to call, by name. Each is called before it counts.
        rounds: how many times each is measured, so that a drift of the machine meets all
            of them alike. Every second round goes through them backwards.
        seconds: about how long one measurement lasts; short calls are repeated.
    """
    repeats = {name: _repeats(timed, seconds) for name, timed in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            found[name].append(contenders[name](repeats[name]) / repeats[name])
    return Times(found)


def _repeats(timed: Timed, seconds: float) -> int:
    """How many calls last about so long, by a first estimate and a second one from that."""
    timed(1)
    once = max(timed(1), 1e-9)
    some = max(1, min(MOST_CALLS, int(seconds / 10 / once)))
    return max(1, min(MOST_CALLS, int(seconds / max(timed(some) / some, 1e-9))))
