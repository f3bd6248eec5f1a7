"""SYNC: the members' gradients are aggregated to one step."""

from __future__ import annotations

import math
from collections.abc import Collection

from optserve_server.coordination.membership import Member
from optserve_server.coordination.mode import Action, Decision, Gathered, Mode, Offer
from optserve_server.spec.coordination import CoordinationSync, LateContribution


class Sync(Mode):
    """A step is taken when enough contributions are held.

    Enough are ``replicas_to_aggregate``, or as many as there are members if these are fewer; never fewer
    than ``min_replicas``. After the straggler time-out, ``min_replicas`` are enough. A member whose
    contribution was skipped is not waited for. One that waits for shards counts for ``min_replicas``,
    because it has nothing to contribute.
    """

    def __init__(self, spec: CoordinationSync) -> None:
        self._spec = spec

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """Held if it was computed at the session's step, or late ones count for the next step."""
        staleness = offer.require_staleness()
        late = staleness > 0 and self._spec.late is LateContribution.DROP
        return Decision(Action.DROP if late else Action.HOLD, staleness)

    def quorum(self, gathered: Gathered) -> int:
        """How many contributions make a step."""
        possible, wanted = gathered.count + gathered.awaited, self._spec.replicas_to_aggregate
        wanted = possible if wanted is None else min(wanted, possible)
        return max(wanted, self._minimum_count(gathered))

    def is_step_ready(self, gathered: Gathered, now: float) -> bool:
        """Whether there are enough contributions."""
        return gathered.count >= self.quorum(gathered) or now >= self.step_deadline(gathered)

    def step_deadline(self, gathered: Gathered) -> float:
        """When the straggler time-out passes."""
        timeout = self._spec.straggler_timeout_seconds
        enough = gathered.count >= self._minimum_count(gathered)
        return gathered.since + timeout if timeout is not None and enough else math.inf

    def _minimum_count(self, gathered: Gathered) -> int:
        return self._spec.min_replicas - gathered.idle
