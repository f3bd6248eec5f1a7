"""BOUNDED: stale synchronous parallel training (Ho et al. 2013)."""

from __future__ import annotations

from collections.abc import Collection

from optserve_server.coordination.membership import Member
from optserve_server.coordination.mode import Action, Decision, Mode, Offer
from optserve_server.spec.coordination import CoordinationBounded


class Bounded(Mode):
    """A contribution waits while it would put its sender too far ahead of the slowest member.

    The slowest member never waits, so that there is no deadlock.
    """

    def __init__(self, spec: CoordinationBounded) -> None:
        self._spec = spec

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """Applied if clock + 1 - min(clocks) is at most max_lead; waits otherwise."""
        slowest = min(member.clock for member in members)
        leads = offer.member.clock + 1 - slowest > self._spec.max_lead
        staleness = max(0, offer.staleness or 0)
        return Decision(Action.WAIT if leads else Action.APPLY, staleness)
