"""Step counts of a rule, for all tensors of a group or for some of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

ScalarState = Mapping[str, float]
"""The numbers that a rule hands from one step to the next, by name."""


@dataclass(slots=True)
class StepCounter:
    """Tensors of one group whose rule has counted the same steps.

    Attributes:
        group: name of the group; empty for the default group.
        count: steps counted.
        scalar_state: what the rule handed on with the last of them.
        tensors: names of the tensors; None for all of the group.
    """

    group: str
    count: int
    scalar_state: ScalarState
    tensors: frozenset[str] | None = None


def advance_counters(
    clocks: Sequence[StepCounter],
    carried: Sequence[ScalarState],
    members: Mapping[str, Collection[str]],
    covered: Collection[str],
) -> list[StepCounter]:
    """Returns the clocks after a step; those of tensors without a gradient do not advance.

    Args:
        clocks: the clocks before it.
        scalar_state: what the rule hands on from the step, for each clock.
        members: names of the tensors of each group.
        covered: names of the tensors that had a gradient.
    """
    found: list[StepCounter] = []
    for clock, after in zip(clocks, carried, strict=True):
        mine = frozenset(members[clock.group]) if clock.tensors is None else clock.tensors
        moving = mine.intersection(covered)
        if moving:
            found.append(StepCounter(clock.group, clock.count + 1, after, moving))
        if mine - moving:
            found.append(StepCounter(clock.group, clock.count, clock.scalar_state, mine - moving))
    return list(_merge(found))


def _merge(clocks: Sequence[StepCounter]) -> Iterator[StepCounter]:
    """Joins clocks that have counted the same steps."""
    alike: dict[object, list[StepCounter]] = {}
    for clock in clocks:
        alike.setdefault((clock.group, clock.count, tuple(sorted(clock.scalar_state.items()))), []).append(
            clock
        )
    for same in alike.values():
        tensors = frozenset[str]().union(*(clock.tensors or () for clock in same))
        yield StepCounter(same[0].group, same[0].count, same[0].scalar_state, tensors)
