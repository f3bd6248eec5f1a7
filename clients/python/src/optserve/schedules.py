"""Learning-rate schedules.

Written by tools/generate_specs.py from optserve/v1/schedule_spec.proto; change it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.enums import Annealing, BoundarySide, Convention, OneCycleForm
from optserve.spec import Choice
from optserve.v1 import schedule_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Schedule(Choice, message=schedule_spec_pb2.ScheduleSpec, oneof="schedule"):
    """A learning rate as a function of the step s, where s is 0 on the first update.

    Schedules may hold schedules, 8 deep and 64 in all.

    Attributes:
        convention: Whose defaults fill the unset fields. Within another schedule: that one's
            convention where unset.
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


@dataclass(frozen=True)
class ConstantSchedule(Schedule, field="constant"):
    """One rate.

    Attributes:
        value: The rate. Required.
    """

    value: float


@dataclass(frozen=True)
class Polynomial(Schedule, field="polynomial"):
    """(initial - end)*(1 - s/decay_steps)^power + end, and end afterwards.

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        decay_steps: Steps until the end. Required.
        end_learning_rate: The rate at the end.
        power: The power; 1 is a straight line.
        cycle: Whether decay_steps doubles, triples and so on whenever s has passed it, so that the
            rate starts anew, lower each time.
    """

    initial_learning_rate: float
    decay_steps: float
    _: KW_ONLY
    end_learning_rate: float | None = None
    power: float | None = None
    cycle: bool | None = None


@dataclass(frozen=True)
class Cosine(Schedule, field="cosine"):
    """lr*((1 - alpha)*(1 + cos(pi*s/decay_steps))/2 + alpha), and lr*alpha afterwards.

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        decay_steps: Steps of the decay, not counting a warm-up. Required.
        alpha: The part of the rate that is left at the end.
        warmup_steps: Steps of a linear warm-up from initial_learning_rate to warmup_target, from
            which the decay then starts; 0 for none.
        warmup_target: The rate at the end of the warm-up; stated together with warmup_steps.
        periodic: Whether the cosine goes on after decay_steps, so that the rate rises again to where
            it started, and so on with a period of 2*decay_steps. PyTorch.
    """

    initial_learning_rate: float
    decay_steps: float
    _: KW_ONLY
    alpha: float | None = None
    warmup_steps: float | None = None
    warmup_target: float | None = None
    periodic: bool | None = None


@dataclass(frozen=True)
class CosineRestarts(Schedule, field="cosine_restarts"):
    """Cosine decay that starts anew whenever it has ended.

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        first_decay_steps: Steps of the first decay. Required.
        t_mul: How many times as long each decay is as the one before.
        m_mul: How many times as high each decay starts as the one before.
        alpha: The part of the rate that is left at the end of a decay.
    """

    initial_learning_rate: float
    first_decay_steps: float
    _: KW_ONLY
    t_mul: float | None = None
    m_mul: float | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class OneCycle(Schedule, field="one_cycle"):
    """max/div_factor up to max, down to max/(div_factor*final_div_factor), where it stays.

    Attributes:
        max_learning_rate: The highest rate. Required.
        total_steps: Steps of the cycle, at whose end, as form counts it, the rate is lowest.
            Required.
        pct_start: The part of the cycle at whose end, as form counts it, the rate is highest.
        annealing: How the rate goes between its extremes. SQUARE_ROOT is refused.
        div_factor: The first rate is max_learning_rate/div_factor.
        final_div_factor: The last rate is the first over final_div_factor.
        three_phase: Whether it falls to the first rate before it falls to the last. optax'
            linear_onecycle_schedule is LINEAR with three phases.
        pct_final: The part of the cycle at whose end, as form counts it, the second of three phases
            ends; 0 makes it as long as the first.
        form: How the ends of the phases are counted.
    """

    max_learning_rate: float
    total_steps: int
    _: KW_ONLY
    pct_start: float | None = None
    annealing: Annealing | None = None
    div_factor: float | None = None
    final_div_factor: float | None = None
    three_phase: bool | None = None
    pct_final: float | None = None
    form: OneCycleForm | None = None


@dataclass(frozen=True)
class StepDecay(Schedule, field="step_decay"):
    """lr*gamma^floor(s/step_size).

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        step_size: Steps between two changes. Required.
        gamma: The factor.
    """

    initial_learning_rate: float
    step_size: int
    _: KW_ONLY
    gamma: float | None = None


@dataclass(frozen=True)
class MultiStepDecay(Schedule, field="multi_step_decay"):
    """lr*gamma^(number of milestones <= s).

    Attributes:
        initial_learning_rate: The rate at step 0. Required.
        milestones: Steps at which the rate changes, increasing. At least one.
        gamma: The factor.
    """

    initial_learning_rate: float
    _: KW_ONLY
    milestones: Sequence[int] = ()
    gamma: float | None = None


@dataclass(frozen=True)
class Rsqrt(Schedule, field="rsqrt"):
    """peak*min(t/warmup_steps, sqrt(warmup_steps/t)) with t = s + 1.

    Noam's schedule for a model of width d is that of peak = factor/sqrt(d*warmup_steps).

    Attributes:
        peak_learning_rate: The highest rate, that of step warmup_steps - 1. Required.
        warmup_steps: Steps of the linear rise. Required.
    """

    peak_learning_rate: float
    warmup_steps: float


@dataclass(frozen=True)
class WarmupStableDecay(Schedule, field="warmup_stable_decay"):
    """initial to peak in warmup_steps, peak for stable_steps, down to end in decay_steps, and end afterwards.

    Attributes:
        peak_learning_rate: The rate at the top. Required.
        warmup_steps: Steps of the linear rise. Required.
        stable_steps: Steps at the top. Required.
        decay_steps: Steps of the way down. Required.
        initial_learning_rate: The rate at step 0.
        end_learning_rate: The rate at the end.
        annealing: How the rate goes down.
    """

    peak_learning_rate: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    _: KW_ONLY
    initial_learning_rate: float | None = None
    end_learning_rate: float | None = None
    annealing: Annealing | None = None


@dataclass(frozen=True)
class Warmup(Schedule, field="warmup"):
    """A line from initial_learning_rate to the first rate of another schedule.

    That one then counts its steps from 0.

    Attributes:
        schedule: The schedule after the warm-up. Required.
        warmup_steps: Steps of the warm-up. Required.
        initial_learning_rate: The rate at step 0.
    """

    schedule: Schedule
    warmup_steps: int
    _: KW_ONLY
    initial_learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Join(Schedule, field="join"):
    """Schedules in turn, each counting its steps from 0.

    Attributes:
        schedules: The schedules: one more than there are boundaries.
        boundaries: Steps at which the next schedule takes over, increasing. At least one.
    """

    schedules: Sequence[Schedule] = ()
    boundaries: Sequence[int] = ()


@dataclass(frozen=True)
class LegacyDecay(Schedule, field="legacy_decay"):
    """schedule(s)/(1 + decay*s): the decay argument of Keras' legacy optimizers.

    Attributes:
        schedule: The schedule that is lowered. Required.
        decay: The decay by step. Required.
    """

    schedule: Schedule
    decay: float
