"""Changes of the leases of shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from optserve_server.coordination.coordinator import CoordinatedSession, Held
from optserve_server.coordination.data_progress import DataShard
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.session_change import Change, ChangeKind
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import pack_payload


@dataclass(frozen=True)
class Acquired:
    """The shards that a worker holds.

    Attributes:
        shards: the shards.
        is_finished: whether all shards of the plan are complete.
        wait: decided when it is worth asking again; None unless there may be shards later.
    """

    shards: Sequence[DataShard]
    is_finished: bool
    wait: Held | None = None


class _ShardChange(Change[Any, Any]):
    """A change of the shards that a member holds.

    Args:
        worker: the member.
        epoch: its epoch.

    Attributes:
        numbers: the shards that are leased or given back.
    """

    is_brief = True

    def __init__(self, worker: str, epoch: int) -> None:
        self.worker, self.epoch = worker, epoch
        self.numbers: Sequence[int] = ()

    @property
    def has_changes(self) -> bool:
        """Whether any shard is leased or given back."""
        return bool(self.numbers)

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload({"kind": self.kind, "worker": self.worker, "shards": self.numbers})

    def roll_back(self) -> None:
        """Returns what `prepare` took: nothing."""

    def _check_membership(self, session: CoordinatedSession) -> None:
        """Checks membership and plan; renews the lease of the membership.

        Raises:
            DomainError: SESSION_NOT_FOUND, FENCED, NOT_A_MEMBER or NO_DATA_PLAN.
        """
        session.check_open()
        self._coordinator = session.coordinator
        self._member = session.coordinator.membership.check_and_renew(self.worker, self.epoch)
        self._progress = session.coordinator.require_data_plan()


class AcquireShards(_ShardChange):
    """A member leases shards until it holds ``count``; other arguments as of `_ShardChange`."""

    kind = ChangeKind.ACQUIRE_SHARDS

    def __init__(self, worker: str, epoch: int, count: int) -> None:
        super().__init__(worker, epoch)
        self._count = count

    def prepare(self, session: CoordinatedSession) -> Self:
        """Finds out which shards are leased; errors as of `_ShardChange`."""
        self._check_membership(session)
        self.numbers = self._progress.next_shards(self._count - len(self._progress.list_held(self.worker)))
        return self

    def commit(self) -> Acquired:
        """Leases them; a member that has none is not waited for by others."""
        progress, coordinator = self._progress, self._coordinator
        progress.lease_shards(self.worker, self.numbers)
        shards = [progress.shard(number) for number in progress.list_held(self.worker)]
        waits = not shards and not progress.is_finished
        began, self._member.is_idle = waits and not self._member.is_idle, waits
        if began:
            coordinator.reconsider_waiting()
        held = coordinator.register_shard_wait(self._member) if waits else None
        return Acquired(shards, progress.is_finished, held)


class ReleaseShards(_ShardChange):
    """A member gives shards back.

    Args:
        shards: their numbers; all that it holds when empty.
    """

    kind = ChangeKind.RELEASE_SHARDS

    def __init__(self, worker: str, epoch: int, shards: Sequence[int]) -> None:
        super().__init__(worker, epoch)
        self._asked = frozenset(shards)

    def prepare(self, session: CoordinatedSession) -> Self:
        """Finds out which of them it holds and no waiting step completes; errors as of `_ShardChange`."""
        self._check_membership(session)
        waiting = session.coordinator.held.get(self.worker)
        kept = () if waiting is None else waiting.completed_shards
        held = self._progress.list_held(self.worker)
        asked = self._asked or held
        self.numbers = [number for number in held if number in asked and number not in kept]
        return self

    def commit(self) -> None:
        """Gives them back."""
        self._progress.return_shards(self.worker, self.numbers)
        self._coordinator.reconsider_waiting()
