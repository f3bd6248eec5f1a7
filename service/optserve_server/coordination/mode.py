"""What a mode of coordination decides: the interface that each of them implements."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from optserve_server.coordination.membership import Member
from optserve_server.errors import DomainError, Reason


class Action(StrEnum):
    """What is done with a contribution."""

    APPLY = "APPLY"
    """It is a step of its own."""
    HOLD = "HOLD"
    """It waits to be aggregated with others."""
    WAIT = "WAIT"
    """It waits, and is decided on again when members have changed or contributed."""
    ACCUMULATE = "ACCUMULATE"
    """It is added to the round, and answered."""
    DROP = "DROP"
    """It is answered, and changes nothing."""


@dataclass(frozen=True)
class Decision:
    """What is done with a contribution.

    Attributes:
        action: what is done.
        staleness: steps since the parameters that it was computed with.
        factor: by which the learning rate (APPLY) or the number of examples (ACCUMULATE) is multiplied.
    """

    action: Action
    staleness: int = 0
    factor: float = 1.0


@dataclass(frozen=True)
class Offer:
    """A contribution, as far as a mode looks at it.

    Attributes:
        member: its sender.
        staleness: steps since the parameters that it was computed with; None if it does not say.
        step: the session's step.
    """

    member: Member
    staleness: int | None
    step: int

    def require_staleness(self) -> int:
        """The staleness.

        Raises:
            DomainError: FIELD_REQUIRED, or STALE for parameters that the session does not have any more.
        """
        if self.staleness is None:
            text = "parameters_step is required by the session's coordination: the step of the pull"
            raise DomainError(Reason.FIELD_REQUIRED, text, field="options.parameters_step")
        if self.staleness < 0:
            raise self.too_old_error(Reason.STALE, 0)
        return self.staleness

    def too_old_error(self, reason: Reason, limit: int) -> DomainError:
        """The error of a contribution that was computed too long ago."""
        computed = self.step - (self.staleness or 0)
        advice = {
            Reason.STALE: "pull, and compute the gradient again",
            Reason.ROUND_CLOSED: "the round is closed; pull, and take part in the current one",
        }
        text = f"it was computed at step {computed}, and the session is at step {self.step}: {advice[reason]}"
        metadata = {"parameters_step": computed, "current": self.step, "limit": limit}
        return DomainError(reason, text, field="options.parameters_step", metadata=metadata)


@dataclass(frozen=True)
class Gathered:
    """Contributions that are to become one step: held, or added to the round.

    Attributes:
        count: how many there are.
        since: when the first of them came; infinity without any.
        awaited: number of members that may contribute and have not done so.
        idle: number of members that wait for shards, and cannot contribute.
    """

    count: int = 0
    since: float = math.inf
    awaited: int = 0
    idle: int = 0


class Mode:
    """Decides what contributions do; without state of its own.

    Attributes:
        members_only: whether steps of others are rejected.
        max_members: how many members there may be; None for no limit.
    """

    members_only = True
    max_members: int | None = None

    def decide(self, offer: Offer, members: Collection[Member]) -> Decision:
        """What is done with a contribution.

        Raises:
            DomainError: STALE, ROUND_CLOSED or FIELD_REQUIRED; nothing was changed.
        """
        raise NotImplementedError

    def is_step_ready(self, gathered: Gathered, now: float) -> bool:
        """Whether a step is to be taken of what is gathered, of which there is at least one.

        It must not wait for members that cannot contribute: that are gone, or wait themselves.
        """
        return False

    def step_deadline(self, gathered: Gathered) -> float:
        """When a step is to be taken of what is gathered, even if nothing is added; infinity for never."""
        return math.inf
