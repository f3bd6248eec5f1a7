"""Learning-rate schedules.

Written by tools/generate_specs.py from optserve/v1/schedule_spec.proto; change it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.enums import BoundarySide, Convention
from optserve.spec import Choice
from optserve.v1 import schedule_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Schedule(Choice, message=schedule_spec_pb2.ScheduleSpec, oneof="schedule"):
    """A learning rate as a function of the step s, where s is 0 on the first update.

    Attributes:
        convention: Whose defaults fill the unset fields.
    """

    convention: Convention | None = None


@dataclass(frozen=True)
class Exponential(Schedule, field="exponential"):
    """Exponential decay.

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        decay_steps: Steps over which the rate is multiplied by decay_rate once. Required.
        decay_rate: The factor. Required.
        staircase: Whether the exponent is floored, so that the rate falls in stairs.
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    _: KW_ONLY
    staircase: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PiecewiseConstant(Schedule, field="piecewise_constant"):
    """Piecewise-constant rates.

    Attributes:
        boundaries: Steps at which the value changes, strictly increasing. At least one.
        values: The values: one more than there are boundaries.
        boundary_side: Which value holds on a boundary itself.
    """

    boundaries: Sequence[int] = ()
    values: Sequence[float] = ()
    boundary_side: BoundarySide | None = None


@dataclass(frozen=True)
class InverseTime(Schedule, field="inverse_time"):
    """Inverse-time decay.

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        decay_steps: Steps over which the denominator grows by decay_rate. Required.
        decay_rate: The growth. Required.
        staircase: Whether the quotient s/decay_steps is floored.
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    _: KW_ONLY
    staircase: bool | None = None
