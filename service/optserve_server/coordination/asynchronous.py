"""ASYNC: each gradient is applied when it arrives, however old it is."""

from __future__ import annotations

from collections.abc import Collection

from optserve_server.coordination.membership import Member
from optserve_server.coordination.mode import Action, Decision, Mode, Offer
from optserve_server.errors import Reason
from optserve_server.spec.coordination import CoordinationAsync


class Asynchronous(Mode):
    """Applied at once, with a learning rate that is damped by the staleness."""

    def __init__(self, spec: CoordinationAsync) -> None:
        self._spec = spec

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """Applied, or rejected with STALE."""
        spec, staleness = self._spec, offer.require_staleness()
        if spec.max_staleness is not None and staleness > spec.max_staleness:
            raise offer.too_old_error(Reason.STALE, spec.max_staleness)
        return Decision(Action.APPLY, staleness, spec.damping.compute_factor(staleness, spec.damping_factor))
