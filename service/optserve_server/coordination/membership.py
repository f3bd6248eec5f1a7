"""Members of a session: epochs, ranks and leases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optserve_server.errors import DomainError, Reason

MAX_MEMBERS = 4096
"""Members of a session at a time, whatever its coordination: results of each are stored."""

MAX_FORMER_MEMBERS = 1024
"""Former members that are still listed, and whose steps are rejected as FENCED."""

SMOOTHING = 0.2
"""Weight of the last interval in the moving average of the time between two contributions."""


class MemberState(StrEnum):
    """Whether a worker is a member."""

    ACTIVE = "ACTIVE"
    LEFT = "LEFT"
    EXPIRED = "EXPIRED"


@dataclass(slots=True)
class Member:
    """A worker that is, or was, a member.

    Attributes:
        worker: its name.
        epoch: its last epoch.
        rank: the lowest number, from 0, that no other member had when it joined.
        lease_seconds: its lease.
        state: whether it is a member.
        clock: contributions, counted from that of the slowest member when it joined.
        contributions: contributions in this epoch.
        last_step: the session's step after its last contribution.
        staleness: that of its last contribution.
        round_number: the last round that it took part in.
        expires_at: when its lease runs out, by the membership's clock.
        waiting: contributions of it that wait; its lease does not run out meanwhile.
        last_at: when its last contribution was counted; 0 before the first since the start.
        interval: moving average of the seconds between two contributions; 0 before the second.
        is_idle: whether it waits for shards, so that others do not wait for it.
    """

    worker: str
    epoch: int
    rank: int
    lease_seconds: float
    state: MemberState = MemberState.ACTIVE
    clock: int = 0
    contributions: int = 0
    last_step: int = 0
    staleness: int = 0
    round_number: int = 0
    expires_at: float = math.inf
    waiting: int = 0
    last_at: float = 0.0
    interval: float = 0.0
    is_idle: bool = False

    def to_json(self) -> list[Any]:
        """What is durable of it, as JSON."""
        return [getattr(self, name) for name in DURABLE_FIELDS]

    def count_contribution(self, step: int, staleness: int, now: float) -> None:
        """Counts a contribution.

        Args:
            step: the session's step after it.
            staleness: its staleness.
            now: the time.
        """
        self.clock += 1
        self.contributions += 1
        self.last_step, self.staleness = step, staleness
        if self.last_at:
            passed = now - self.last_at
            self.interval = (1 - SMOOTHING) * self.interval + SMOOTHING * passed if self.interval else passed
        self.last_at = now


DURABLE_FIELDS = tuple(Member.__dataclass_fields__)[:10]
"""Names of a member's fields that are durable."""


class Membership:
    """The members of one session.

    Args:
        clock: the time in seconds, which never goes back.

    Attributes:
        active: the members by name.
        former: workers that were members, the last one last.
        next_epoch: the epoch of the next one that joins.
        round_number: number of the step, or round, that contributions are gathered for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.active: dict[str, Member] = {}
        self.former: dict[str, Member] = {}
        self.next_epoch = 1
        self.round_number = 1

    @property
    def contributing_members(self) -> list[Member]:
        """The members that others may have to wait for."""
        return [member for member in self.active.values() if member.waiting or not member.is_idle]

    def to_json(self) -> dict[str, Any]:
        """What is durable, as JSON."""
        members = [*self.active.values(), *self.former.values()]
        return {
            "next_epoch": self.next_epoch,
            "members": [member.to_json() for member in members],
            "round_number": self.round_number,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `to_json` returned; leases start again."""
        self.next_epoch, self.round_number = int(state["next_epoch"]), int(state["round_number"])
        for facts in state["members"]:
            member = Member(**dict(zip(DURABLE_FIELDS, facts, strict=True)))
            member.state = MemberState(member.state)
            (self.active if member.state is MemberState.ACTIVE else self.former)[member.worker] = member
            self._restart_lease(member)

    def join(self, worker: str, lease_seconds: float) -> Member:
        """Makes a worker a member in a new epoch; an earlier epoch of it ends."""
        before = self.active.pop(worker, None)
        former = before or self.former.pop(worker, None)
        taken = {member.rank for member in self.active.values()}
        rank = next(rank for rank in range(len(taken) + 1) if rank not in taken)
        if before is not None:
            rank = before.rank
        clock = min((member.clock for member in self.active.values()), default=0)
        member = self.active[worker] = Member(worker, self.next_epoch, rank, lease_seconds, clock=clock)
        member.round_number = 0 if former is None else former.round_number
        self.next_epoch += 1
        self._restart_lease(member)
        return member

    def is_member(self, worker: str, epoch: int) -> bool:
        """Whether a worker is a member in that epoch."""
        member = self.active.get(worker)
        return member is not None and member.epoch == epoch

    def end_membership(self, worker: str, epoch: int, state: MemberState) -> Member | None:
        """Ends an epoch; None if it has ended already."""
        if not self.is_member(worker, epoch):
            return None
        member = self.active.pop(worker)
        member.state = state
        self.former[worker] = member
        while len(self.former) > MAX_FORMER_MEMBERS:
            del self.former[next(iter(self.former))]
        return member

    def check_and_renew(self, worker: str, epoch: int) -> Member:
        """The member of that epoch, whose lease is renewed.

        Raises:
            DomainError: FENCED or NOT_A_MEMBER.
        """
        member = self.active.get(worker)
        if member is not None and member.epoch == epoch:
            self._restart_lease(member)
            return member
        known = member or self.former.get(worker)
        # Epochs only grow, so one that was given out and is not that of a member has ended.
        if known is None and not 0 < epoch < self.next_epoch:
            text = f"worker {worker!r} is no member; join the session first"
            raise DomainError(Reason.NOT_A_MEMBER, text, metadata={"worker": worker})
        current = 0 if known is None else known.epoch
        raise DomainError(
            Reason.FENCED,
            f"epoch {epoch} of worker {worker!r} has ended; join again and continue with next_sequence",
            field="worker_epoch",
            metadata={"worker": worker, "epoch": epoch, "current": current},
        )

    def list_expired_members(self) -> list[Member]:
        """The members whose leases have run out."""
        now = self.clock()
        return [m for m in self.active.values() if not m.waiting and m.expires_at <= now]

    def next_lease_expiry(self) -> float:
        """When the next lease runs out; infinity if none does."""
        return min((m.expires_at for m in self.active.values() if not m.waiting), default=math.inf)

    def begin_wait(self, member: Member) -> None:
        """Notes that a contribution waits."""
        member.waiting += 1

    def end_wait(self, member: Member) -> None:
        """Notes that a contribution waits no more; the lease starts again."""
        member.waiting -= 1
        self._restart_lease(member)

    def mark_participation(self, member: Member) -> None:
        """Notes that the next step, or the open round, does not wait for a contribution of a member."""
        member.round_number = self.round_number

    def count_awaited_and_idle(self) -> tuple[int, int]:
        """Number of members that the next step, or round, may wait for, and of those that are idle."""
        awaited = idle = 0
        for member in self.active.values():
            if member.is_idle and not member.waiting:
                idle += 1
            elif member.round_number < self.round_number and not member.waiting:
                awaited += 1
        return awaited, idle

    def begin_round(self) -> None:
        """Notes that no member has taken part in the next step, or round."""
        self.round_number += 1

    def list_members(self) -> Sequence[Member]:
        """Members by rank, then former ones by name."""
        active = sorted(self.active.values(), key=lambda member: member.rank)
        return [*active, *sorted(self.former.values(), key=lambda member: member.worker)]

    def _restart_lease(self, member: Member) -> None:
        member.expires_at = self.clock() + member.lease_seconds
