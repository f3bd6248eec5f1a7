"""Coordination of a session's workers: how their contributions become steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from optserve_server.errors import DomainError, Reason, conflict_error
from optserve_server.hyperparameters import Hyperparameters, hyper


class LateContribution(StrEnum):
    """What is done with a contribution that was computed at an earlier step."""

    DROP = "DROP"
    CARRY = "CARRY"


class Aggregation(StrEnum):
    """How gradients are aggregated."""

    MEAN = "MEAN"
    SUM = "SUM"
    COORDINATE_MEDIAN = "COORDINATE_MEDIAN"
    TRIMMED_MEAN = "TRIMMED_MEAN"
    NORM_BOUNDED_MEAN = "NORM_BOUNDED_MEAN"


class Damping(StrEnum):
    """A factor by the staleness s of a contribution."""

    NONE = "NONE"
    INVERSE = "INVERSE"
    INVERSE_SQUARE_ROOT = "INVERSE_SQUARE_ROOT"
    EXPONENTIAL = "EXPONENTIAL"

    def compute_factor(self, staleness: int, base: float) -> float:
        """The factor: 1, 1/(1 + s), 1/sqrt(1 + s) or base^s."""
        if self is Damping.INVERSE:
            return 1 / (1 + staleness)
        if self is Damping.INVERSE_SQUARE_ROOT:
            return 1 / math.sqrt(1 + staleness)
        return base**staleness if self is Damping.EXPONENTIAL else 1.0


@dataclass(frozen=True)
class CoordinationSolo(Hyperparameters):
    """Each step is applied when it arrives."""


@dataclass(frozen=True)
class CoordinationSync(Hyperparameters):
    """The members' gradients are aggregated to one step."""

    replicas_to_aggregate: int | None = hyper(None, ge=1)
    min_replicas: int = hyper(1, ge=1)
    straggler_timeout_seconds: float | None = hyper(None, gt=0)
    late: LateContribution = hyper(LateContribution.DROP)
    aggregation: Aggregation = hyper(Aggregation.MEAN)
    weight_by_examples: bool = hyper(False)
    trim: int = hyper(1, ge=0)
    max_norm: float | None = hyper(None, gt=0)

    def validate(self) -> None:
        """Rejects a quorum that cannot be met, and a mean of bounded norm without its bound."""
        if self.replicas_to_aggregate is not None and self.min_replicas > self.replicas_to_aggregate:
            text = f"min_replicas is {self.min_replicas}, but must be at most replicas_to_aggregate"
            raise conflict_error("min_replicas", text)
        if self.aggregation is Aggregation.NORM_BOUNDED_MEAN and self.max_norm is None:
            text = "max_norm is required by NORM_BOUNDED_MEAN"
            raise DomainError(Reason.FIELD_REQUIRED, text, field="max_norm")


@dataclass(frozen=True)
class CoordinationAsync(Hyperparameters):
    """Each gradient is applied when it arrives, however old it is."""

    damping: Damping = hyper(Damping.NONE)
    damping_factor: float = hyper(0.5, gt=0, le=1)
    max_staleness: int | None = hyper(None, ge=0)


@dataclass(frozen=True)
class CoordinationBounded(Hyperparameters):
    """As asynchronous, but fast members wait for slow ones."""

    max_lead: int = hyper(ge=1)


@dataclass(frozen=True)
class CoordinationRounds(Hyperparameters):
    """Members train on their own and send the change of the parameters."""

    buffer_size: int = hyper(ge=1)
    min_contributions: int = hyper(1, ge=1)
    max_active: int | None = hyper(None, ge=1)
    deadline_seconds: float | None = hyper(None, gt=0)
    max_staleness: int = hyper(0, ge=0)
    damping: Damping = hyper(Damping.NONE)
    damping_factor: float = hyper(0.5, gt=0, le=1)

    def validate(self) -> None:
        """Rejects rounds that could never close."""
        for name in ("buffer_size", "max_active"):
            limit = getattr(self, name)
            if limit is not None and self.min_contributions > limit:
                text = f"min_contributions is {self.min_contributions}, but must be at most {name}, {limit}"
                raise conflict_error("min_contributions", text)


CoordinationSpec = (
    CoordinationSolo | CoordinationSync | CoordinationAsync | CoordinationBounded | CoordinationRounds
)
