"""Options and result of a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optserve_server.spec.override import Override


class StepOutcome(StrEnum):
    """Outcome of a step."""

    APPLIED = "APPLIED"
    ACCUMULATED = "ACCUMULATED"
    SKIPPED = "SKIPPED"
    VALIDATED = "VALIDATED"
    DROPPED = "DROPPED"


@dataclass(slots=True)
class MemberOptions:
    """What a member's step states besides; fields as those of the step's options.

    Attributes:
        epoch: the epoch of its membership.
        example_count: examples that the gradient was computed of.
        parameters_step: the step of the parameters that it was computed with; None if it does not say.
        completed_shards: shards of the data plan that it was computed of.
    """

    epoch: int
    example_count: int = 1
    parameters_step: int | None = None
    completed_shards: tuple[int, ...] = ()


# One of each is made for every step; to make a frozen one takes four times as long.


@dataclass(slots=True)
class StepOptions:
    """Options of a step; fields as in the message of that name."""

    worker: str = ""
    sequence: int = 0
    expected_step: int | None = None
    loss_scale: float = 1.0
    validate_only: bool = False
    per_tensor_norms: bool = False
    gradient_id: int = 0
    overrides: tuple[Override, ...] = ()
    member: MemberOptions | None = None


@dataclass(slots=True)
class StepResult:
    """Result of a step; fields as in the message of that name."""

    step: int
    outcome: StepOutcome
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    clipped_gradient_norm: float = 0.0
    non_finite_count: int = 0
    staleness: int = 0
    regularization_penalty: float = 0.0
    durable_step: int = 0
    accumulated: int = 0
    tensor_norms: tuple[tuple[str, float], ...] = ()
    replayed: bool = False
    worker: str = ""
    sequence: int = 0
    contributions: int = 0
    weight: float = 0.0
