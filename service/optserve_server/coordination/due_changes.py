"""What is to be done without a call: memberships that end, steps that are complete."""

from __future__ import annotations

from typing import Any

from optserve_server.coordination.aggregate_step import AggregateStep, CloseRound
from optserve_server.coordination.coordinator import Coordinator
from optserve_server.coordination.membership import MemberState
from optserve_server.coordination.membership_change import EndMemberships
from optserve_server.state.session_change import Change


def next_due_change(coordinator: Coordinator) -> Change[Any, Any] | None:
    """The next change that is due; None if nothing is. Whether it still is, its preparation finds out."""
    if coordinator.next_due_time() > coordinator.membership.clock():
        return None
    if coordinator.membership.list_expired_members():
        return EndMemberships(MemberState.EXPIRED)
    return AggregateStep() if coordinator.round is None else CloseRound()
