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
    counters: Sequence[StepCounter],
    carried: Sequence[ScalarState],
    members: Mapping[str, Collection[str]],
    covered: Collection[str],
) -> list[StepCounter]:
    """Returns the counters after a step; those of tensors without a gradient do not advance.

    Args:
        counters: the counters before it.
        carried: what the rule hands on from the step, for each counter.
        members: names of the tensors of each group that has any.
        covered: names of the tensors that had a gradient.
    """
    found: list[StepCounter] = []
    for counter, after in zip(counters, carried, strict=True):
        mine = frozenset(members.get(counter.group, ())) if counter.tensors is None else counter.tensors
        moving = mine.intersection(covered)
        if moving:
            found.append(StepCounter(counter.group, counter.count + 1, after, moving))
        if mine - moving:
            found.append(StepCounter(counter.group, counter.count, counter.scalar_state, mine - moving))
    return list(_merge_counters(found))


def _merge_counters(counters: Sequence[StepCounter]) -> Iterator[StepCounter]:
    """Joins counters that have counted the same steps."""
    alike: dict[object, list[StepCounter]] = {}
    for counter in counters:
        alike.setdefault(
            (counter.group, counter.count, tuple(sorted(counter.scalar_state.items()))), []
        ).append(counter)
    for same in alike.values():
        tensors = frozenset[str]().union(*(counter.tensors or () for counter in same))
        yield StepCounter(same[0].group, same[0].count, same[0].scalar_state, tensors)
