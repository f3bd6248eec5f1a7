"""Changes of a session's members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optserve_server.coordination.coordinator import CoordinatedSession
from optserve_server.coordination.membership import MAX_MEMBERS, Member, MemberState
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.prepared_change import Prepared, do_nothing
from optserve_server.state.session_change import Change, ChangeKind
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import pack_payload

RETRY_AFTER_S = 1.0
"""Seconds after which a worker may try to join again when there are as many members as there may be."""


@dataclass(frozen=True)
class Join(Change[Any, Prepared[Member]]):
    """A worker becomes a member, in a new epoch."""

    worker: str
    lease_seconds: float
    kind = ChangeKind.JOIN

    def prepare(self, session: CoordinatedSession) -> Prepared[Member]:
        """Checks it.

        Raises:
            DomainError: SESSION_NOT_FOUND or LIMIT_EXCEEDED.
        """
        session.check_open()
        members, stated = session.coordinator.membership.active, session.coordinator.mode.max_members
        limit = MAX_MEMBERS if stated is None else min(stated, MAX_MEMBERS)
        if self.worker not in members and len(members) >= limit:
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"there are {limit} members, as many as there may be; join when one of them has left",
                metadata={"limit": "max_active" if limit == stated else "max_members", "value": limit},
                retry_after=RETRY_AFTER_S,
            )
        return Prepared(partial(self._add_member, session))

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload({"kind": self.kind, "worker": self.worker, "lease_seconds": self.lease_seconds})

    def _add_member(self, session: CoordinatedSession) -> Member:
        member = session.coordinator.membership.join(self.worker, self.lease_seconds)
        session.coordinator.release_worker(self.worker)
        session.activity.publish(replace(member))
        return member


@dataclass
class EndMemberships(Change[Any, Prepared[None]]):
    """Members leave, or are expired.

    Attributes:
        state: LEFT, or EXPIRED for those whose leases have run out when it is prepared.
        members: worker and epoch of those that leave.
    """

    state: MemberState
    members: Sequence[tuple[str, int]] = ()
    kind = ChangeKind.END_MEMBERSHIPS

    def prepare(self, session: CoordinatedSession) -> Prepared[None]:
        """Finds out whose memberships end."""
        session.check_open()
        membership = session.coordinator.membership
        if self.state is MemberState.EXPIRED:
            self.members = [(member.worker, member.epoch) for member in membership.list_expired_members()]
        self.members = [
            (worker, epoch) for worker, epoch in self.members if membership.is_member(worker, epoch)
        ]
        if not self.members:
            return Unchanged(do_nothing)
        return Prepared(partial(end_memberships, session, self.state, self.members))

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload({"kind": self.kind, "state": self.state, "members": self.members})


class Unchanged(Prepared[None]):
    """A change that has nothing to do."""

    has_changes = False


def end_memberships(
    session: CoordinatedSession, state: MemberState, members: Sequence[tuple[str, int]]
) -> None:
    """Ends memberships; what waits in them is rejected."""
    for worker, epoch in members:
        member = session.coordinator.membership.end_membership(worker, epoch, state)
        session.coordinator.release_worker(worker)
        if member is not None:
            session.activity.publish(replace(member))


def replay_membership_end(session: CoordinatedSession, facts: Mapping[str, Any]) -> None:
    """Ends memberships again."""
    end_memberships(session, MemberState(facts["state"]), facts["members"])
