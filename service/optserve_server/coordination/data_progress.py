"""Progress of a data plan: which shards are leased, returned and complete."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from optserve_server.coordination.shard_order import index_at
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.data_plan import DataPlanSpec


@dataclass(frozen=True)
class DataShard:
    """A shard in one epoch; fields as in the message of that name."""

    number: int
    epoch: int
    index: int
    begin: int
    end: int


class DataProgress:
    """Progress of one data plan.

    Shards are numbered over all epochs and leased in this order, those that were given back first. One
    below `next` that is neither leased nor given back is complete, so that only exceptions are stored.

    Args:
        plan: the plan.

    Attributes:
        next: the first shard that was never leased.
        returned: shards that were given back, ascending.
        leased: shards that each worker holds, in the order in which it leased them.
    """

    def __init__(self, plan: DataPlanSpec) -> None:
        self.plan = plan
        self.next = 0
        self.returned: list[int] = []
        self.leased: dict[str, list[int]] = {}

    @property
    def leased_count(self) -> int:
        """Number of shards that are leased."""
        return sum(map(len, self.leased.values()))

    @property
    def completed_count(self) -> int:
        """Number of shards that are complete."""
        return self.next - len(self.returned) - self.leased_count

    @property
    def is_finished(self) -> bool:
        """Whether all shards are complete."""
        return self.next == self.plan.shard_count and not self.returned and not self.leased

    @property
    def first_incomplete_epoch(self) -> int:
        """The first epoch with a shard that is not complete; the number of epochs if all are."""
        first = min(chain([self.next], self.returned[:1], *self.leased.values()))
        return first // self.plan.shards_per_epoch

    def shard(self, number: int) -> DataShard:
        """The shard of that number."""
        plan = self.plan
        epoch, place = divmod(number, plan.shards_per_epoch)
        index = index_at(place, plan.shards_per_epoch, plan.seed, epoch)
        begin = index * plan.shard_size
        return DataShard(number, epoch, index, begin, min(begin + plan.shard_size, plan.example_count))

    def list_held(self, worker: str) -> Sequence[int]:
        """The shards that a worker holds."""
        return self.leased.get(worker, ())

    def next_shards(self, count: int = 1) -> list[int]:
        """The shards that are leased next, at most ``count``."""
        return list(islice(chain(self.returned, range(self.next, self.plan.shard_count)), max(0, count)))

    def lease_shards(self, worker: str, numbers: Sequence[int]) -> None:
        """Leases the shards that `next_shards` returned."""
        if numbers:
            again = sum(number < self.next for number in numbers)
            del self.returned[:again]
            self.next += len(numbers) - again
            self.leased.setdefault(worker, []).extend(numbers)

    def complete_shards(self, worker: str, numbers: Iterable[int]) -> None:
        """Completes shards that a worker holds."""
        for number in numbers:
            self.leased[worker].remove(number)
        self._remove_empty_lease(worker)

    def return_shards(self, worker: str, numbers: Iterable[int] | None = None) -> None:
        """Returns shards that a worker holds; all of them when None."""
        held = self.leased.get(worker, [])
        for number in list(held) if numbers is None else numbers:
            held.remove(number)
            bisect.insort(self.returned, number)
        self._remove_empty_lease(worker)

    def return_all_shards(self) -> None:
        """Returns the shards of all workers."""
        for worker in list(self.leased):
            self.return_shards(worker)

    def check_shards_held(self, worker: str, numbers: Sequence[int]) -> None:
        """Checks that a worker holds shards, which a step of it is to complete.

        Raises:
            DomainError: SHARD_NOT_HELD, or CONFLICTING_FIELDS for a shard that is stated twice.
        """
        held = self.list_held(worker)
        for position, number in enumerate(numbers):
            field = f"options.completed_shards[{position}]"
            if number not in held:
                raise shard_not_held_error(worker, number, field)
            if number in numbers[:position]:
                raise DomainError(Reason.CONFLICTING_FIELDS, f"shard {number} is stated twice", field=field)

    def to_json(self) -> dict[str, Any]:
        """What is durable, as JSON."""
        return {
            "next": self.next,
            "returned": list(self.returned),
            "leased": {w: list(n) for w, n in self.leased.items()},
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Takes over what `to_json` returned.

        Raises:
            ValueError: it is not that of a plan.
        """
        self.next, self.returned, self.leased = (
            facts["next"],
            sorted(facts["returned"]),
            dict(facts["leased"]),
        )
        numbers = [*chain(self.returned, *self.leased.values())]
        known = {number for number in numbers if type(number) is int and 0 <= number < self.next}
        if len(known) < len(numbers) or not 0 <= self.next <= self.plan.shard_count:
            raise ValueError(facts)

    def _remove_empty_lease(self, worker: str) -> None:
        if not self.leased.get(worker, True):
            del self.leased[worker]


def shard_not_held_error(worker: str, number: int, field: str) -> DomainError:
    """The error of a shard that a worker does not hold."""
    text = f"worker {worker!r} does not hold shard {number}; acquire shards, and compute another contribution"
    return DomainError(Reason.SHARD_NOT_HELD, text, field=field, metadata={"shard": number, "worker": worker})


def resolve_plan_update(
    before: DataPlanSpec | None, progress: DataProgress | None, after: DataPlanSpec | None
) -> DataPlanSpec | None:
    """The plan of a session whose specification is replaced: ``after``, or the present one when None.

    Raises:
        DomainError: CONFLICTING_FIELDS.
    """
    if after is None or before is None or progress is None:
        return after or before
    for name in ("example_count", "shard_size", "seed"):
        if getattr(after, name) != getattr(before, name):
            text = f"{name} of a data plan cannot be changed; it is {getattr(before, name)}"
            raise DomainError(Reason.CONFLICTING_FIELDS, text, field=f"spec.data_plan.{name}")
    if after.shard_count < progress.next:
        begun = -(-progress.next // before.shards_per_epoch)
        text = f"epochs is {after.epochs}, but {begun} epochs have begun"
        raise DomainError(Reason.CONFLICTING_FIELDS, text, field="spec.data_plan.epochs")
    return after
