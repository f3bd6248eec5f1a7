"""ROUNDS: members train on their own and send the change of the parameters."""

from __future__ import annotations

import math
from collections.abc import Collection

from optserve_server.coordination.membership import Member
from optserve_server.coordination.mode import Action, Decision, Gathered, Mode, Offer
from optserve_server.errors import Reason
from optserve_server.spec.coordination import CoordinationRounds


class Rounds(Mode):
    """A round closes when it is full, when no member is awaited, or when its deadline passes.

    No member is awaited when each has contributed. So a round whose members are fewer than its buffer,
    because some are lost, does not wait for others without a limit.

    With a buffer as large as the number of members and max_staleness 0 it is FedAvg (McMahan et al.
    2017); with a smaller buffer and stale contributions FedBuff (Nguyen et al. 2022).
    """

    def __init__(self, spec: CoordinationRounds) -> None:
        self._spec = spec
        self.max_members = spec.max_active

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """Added to the round, or rejected with ROUND_CLOSED."""
        spec, staleness = self._spec, offer.require_staleness()
        if staleness > spec.max_staleness:
            raise offer.too_old_error(Reason.ROUND_CLOSED, spec.max_staleness)
        return Decision(
            Action.ACCUMULATE, staleness, spec.damping.compute_factor(staleness, spec.damping_factor)
        )

    def is_step_ready(self, gathered: Gathered, now: float) -> bool:
        """Whether the round is full, no member is awaited, or its deadline has passed."""
        if gathered.count >= self._spec.buffer_size or now >= self.step_deadline(gathered):
            return True
        return self._is_enough(gathered) and not gathered.awaited

    def step_deadline(self, gathered: Gathered) -> float:
        """The round's deadline."""
        seconds = self._spec.deadline_seconds
        return gathered.since + seconds if seconds is not None and self._is_enough(gathered) else math.inf

    def _is_enough(self, gathered: Gathered) -> bool:
        return gathered.count >= self._spec.min_contributions - gathered.idle
