"""SOLO: each step is applied when it arrives, from members and others."""

from __future__ import annotations

from collections.abc import Collection

from optserve_server.coordination.membership import Member
from optserve_server.coordination.mode import Action, Decision, Mode, Offer


class Solo(Mode):
    """Each step is applied when it arrives."""

    members_only = False

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """Always applied."""
        return Decision(Action.APPLY, max(0, offer.staleness or 0))
