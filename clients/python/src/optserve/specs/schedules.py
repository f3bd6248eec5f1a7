"""Learning-rate schedules.

Written by tools/generate_specs.py from optserve/v1/schedule_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice
from optserve.specs.enums import Annealing, BoundarySide, Convention, CyclicForm, OneCycleForm
from optserve.v1 import schedule_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Schedule(Choice, message=schedule_spec_pb2.ScheduleSpec, oneof="schedule"):
    """A learning rate as a function of the step s, where s is 0 on the first update.

    Schedules may hold schedules, 8 deep and 64 in all.

    Attributes:
        convention: The convention whose defaults fill the unset fields. That of the outer schedule if
            unset within another schedule.
    """

    convention: Convention | None = None


@dataclass(frozen=True)
class Exponential(Schedule, field="exponential"):
    """Exponential decay.

    lr*rate^(s/steps); a staircase floors the exponent. An end rate bounds it unless 0.

    Infinite where a decay rate above 1 leaves the range of float64.

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        decay_steps: Steps over which the rate is multiplied by decay_rate once. Required. Greater
            than 0.
        decay_rate: The factor. Required. Greater than 0.
        staircase: Whether the exponent is floored, so that the rate is a step function. Default:
            False.
        end_learning_rate: The lowest rate for a decay_rate below 1, otherwise the highest; 0 for no
            bound. At least 0. Default: 0.0.
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    _: KW_ONLY
    staircase: bool = False
    end_learning_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PiecewiseConstant(Schedule, field="piecewise_constant"):
    """One learning rate between each pair of boundaries.

    values[i], where i is by `boundary_side` the number of

        BEFORE  boundaries < s   (Keras)
        AFTER   boundaries <= s  (PyTorch, optax)

    Attributes:
        boundaries: Steps at which the value changes, strictly increasing. At least one.
        values: The values: one more than there are boundaries.
        boundary_side: Which value holds on a boundary itself. Default: BEFORE (KERAS, LECTURE), AFTER
            (TORCH, OPTAX).
    """

    boundaries: Sequence[int] = ()
    values: Sequence[float] = ()
    boundary_side: ByConvention[BoundarySide] = None


@dataclass(frozen=True)
class InverseTime(Schedule, field="inverse_time"):
    """Inverse-time decay.

    lr/(1 + rate*s/steps); a staircase floors s/steps.

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        decay_steps: Steps over which the denominator grows by decay_rate. Required. Greater than 0.
        decay_rate: The growth. Required. At least 0.
        staircase: Whether the quotient s/decay_steps is floored. Default: False.
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    _: KW_ONLY
    staircase: bool = False


@dataclass(frozen=True)
class ConstantSchedule(Schedule, field="constant"):
    """One rate throughout.

    value.

    Attributes:
        value: The rate. Required. At least 0.
    """

    value: float


@dataclass(frozen=True)
class Polynomial(Schedule, field="polynomial"):
    """Polynomial decay.

    (initial - end)*(1 - s/steps)^power + end, and end afterwards.

    With `cycle` steps is multiplied by ceil(s/steps), so that the rate rises again after
    each period, to less each time (Keras).

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        decay_steps: Steps until the end. Required. Greater than 0.
        end_learning_rate: The rate at the end. At least 0. Default: 0.0001 (KERAS, OPTAX, LECTURE),
            0.0 (TORCH).
        power: The power; 1 is a straight line. At least 0. Default: 1.0.
        cycle: Whether decay_steps is multiplied by max(1, ceil(s/decay_steps)), so that the rate
            restarts from a lower value each time. Default: False.
    """

    initial_learning_rate: float
    decay_steps: float
    _: KW_ONLY
    end_learning_rate: ByConvention[float] = None
    power: float = 1.0
    cycle: bool = False


@dataclass(frozen=True)
class Cosine(Schedule, field="cosine"):
    """Cosine decay (Loshchilov and Hutter, 2017, arXiv:1608.03983).

    lr*((1 - alpha)*((1 + cos(pi*s/steps))/2)^exponent + alpha), and lr*alpha afterwards.

    With `periodic` the formula holds afterwards as well, so that the rate rises again and
    has a period of 2*steps (PyTorch's CosineAnnealingLR).

    With a warm-up (Keras): linear from the initial rate to `warmup_target`, which then
    decays from there, with s counted from 0 again.

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        decay_steps: Steps of the decay, not counting a warm-up. Required. Greater than 0.
        alpha: The fraction of the rate at the end. At least 0. Default: 0.0.
        warmup_steps: Steps of a linear warm-up from initial_learning_rate to warmup_target, from
            which the decay then starts; 0 for none. At least 0. Default: 0.0.
        warmup_target: The rate at the end of the warm-up; required with warmup_steps. At least 0.
            Default: 0.0.
        periodic: Whether the cosine continues after decay_steps: the rate is periodic with a period
            of 2*decay_steps. PyTorch. Default: False (KERAS, OPTAX, LECTURE), True (TORCH).
        exponent: The power of the cosine. optax. Greater than 0. Default: 1.0.
    """

    initial_learning_rate: float
    decay_steps: float
    _: KW_ONLY
    alpha: float = 0.0
    warmup_steps: float = 0.0
    warmup_target: float = 0.0
    periodic: ByConvention[bool] = None
    exponent: float = 1.0


@dataclass(frozen=True)
class CosineRestarts(Schedule, field="cosine_restarts"):
    """Cosine decay with warm restarts (Loshchilov and Hutter, 2017, arXiv:1608.03983).

    lr*((1 - alpha)*m_mul^i*(1 + cos(pi*f))/2 + alpha), at the fraction f of decay i.

    Decay i takes first_decay_steps*t_mul^i steps. It starts at the very step at which
    the one before ends.

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        first_decay_steps: Steps of the first decay. Required. Greater than 0.
        t_mul: Ratio of the length of each decay to that of the previous one. At least 1. Default: 2.0
            (KERAS, OPTAX, LECTURE), 1.0 (TORCH).
        m_mul: Ratio of the initial rate of each decay to that of the previous one. At least 0.
            Default: 1.0.
        alpha: The fraction of the rate at the end of a decay. At least 0. Default: 0.0.
    """

    initial_learning_rate: float
    first_decay_steps: float
    _: KW_ONLY
    t_mul: ByConvention[float] = None
    m_mul: float = 1.0
    alpha: float = 0.0


@dataclass(frozen=True)
class OneCycle(Schedule, field="one_cycle"):
    """One cycle (Smith and Topin, 2018, arXiv:1708.07120), as in PyTorch and in optax.

    From max/div_factor up to max at the end of the part pct_start of the cycle, then down to
    max/(div_factor*final_div_factor) at the end of the cycle, where it stays.

    With `three_phase` it first falls to the first rate, at the end of the part pct_final, or in
    as many steps as it rose if that is 0. A part f of the cycle ends at step

        LAST_STEP   f*total - 1        (PyTorch's OneCycleLR)
        STEP_COUNT  floor(f*total)     (optax' cosine_onecycle_schedule; linear_onecycle_schedule is
                                       LINEAR in three phases)

    Attributes:
        max_learning_rate: The highest rate. Required. At least 0.
        total_steps: Steps of the cycle, at whose end the rate is lowest; form defines the end.
            Required. At least 1.
        pct_start: The fraction of the cycle at whose end the rate is highest; form defines the end.
            In [0, 1]. Default: 0.3.
        annealing: Interpolation between the extremes. SQUARE_ROOT is rejected. One of COSINE, LINEAR.
            Default: COSINE.
        div_factor: The first rate is max_learning_rate/div_factor. Greater than 0. Default: 25.0.
        final_div_factor: The last rate is the first one divided by final_div_factor. Greater than 0.
            Default: 10000.0.
        three_phase: Whether the rate decreases to the first rate before it decreases to the last one.
            optax' linear_onecycle_schedule is LINEAR with three phases. Default: False.
        pct_final: The fraction of the cycle at whose end the second of three phases ends; form
            defines the end. 0 makes the phase as long as the first. In [0, 1]. Default: 0.0 (KERAS,
            TORCH, LECTURE), 0.85 (OPTAX).
        form: How the ends of the phases are computed. Default: LAST_STEP (KERAS, TORCH, LECTURE),
            STEP_COUNT (OPTAX).
    """

    max_learning_rate: float
    total_steps: int
    _: KW_ONLY
    pct_start: float = 0.3
    annealing: Annealing = Annealing.COSINE
    div_factor: float = 25.0
    final_div_factor: float = 10000.0
    three_phase: bool = False
    pct_final: ByConvention[float] = None
    form: ByConvention[OneCycleForm] = None


@dataclass(frozen=True)
class StepDecay(Schedule, field="step_decay"):
    """A factor after every fixed number of steps.

    lr*gamma^floor(s/step_size) (PyTorch's StepLR).

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        step_size: Steps between two changes. Required. At least 1.
        gamma: The factor. At least 0. Default: 0.1.
    """

    initial_learning_rate: float
    step_size: int
    _: KW_ONLY
    gamma: float = 0.1


@dataclass(frozen=True)
class MultiStepDecay(Schedule, field="multi_step_decay"):
    """A factor at each milestone.

    lr*gamma^(number of milestones <= s) (PyTorch's MultiStepLR).

    Attributes:
        initial_learning_rate: The rate at step 0. Required. At least 0.
        milestones: Steps at which the rate changes, increasing. At least one.
        gamma: The factor. At least 0. Default: 0.1.
    """

    initial_learning_rate: float
    _: KW_ONLY
    milestones: Sequence[int] = ()
    gamma: float = 0.1


@dataclass(frozen=True)
class Rsqrt(Schedule, field="rsqrt"):
    """The inverse square root of the step (Vaswani et al., 2017, arXiv:1706.03762, section 5.3).

    peak*min(t/warmup_steps, sqrt(warmup_steps/t)), t = s + 1.

    The paper's d^-0.5*min(t^-0.5, t*warmup_steps^-1.5) is that of peak = (d*warmup_steps)^-0.5.

    Noam's schedule for a model of width d is that of peak = factor/sqrt(d*warmup_steps).

    Attributes:
        peak_learning_rate: The highest rate, that of step warmup_steps - 1. Required. At least 0.
        warmup_steps: Steps of the linear warm-up. Required. Greater than 0.
    """

    peak_learning_rate: float
    warmup_steps: float


@dataclass(frozen=True)
class WarmupStableDecay(Schedule, field="warmup_stable_decay"):
    """Up, level, down (Hu et al., 2024, MiniCPM, arXiv:2404.06395).

    Linear from initial to peak, then peak, then by `annealing` to end, where it stays.

    SQUARE_ROOT goes down as 1 - sqrt (Hägele et al., 2024, arXiv:2405.18392).

    Attributes:
        peak_learning_rate: The rate of the stable phase. Required. At least 0.
        warmup_steps: Steps of the linear warm-up. Required. At least 0.
        stable_steps: Steps of the stable phase. Required. At least 0.
        decay_steps: Steps of the decay. Required. At least 1.
        initial_learning_rate: The rate at step 0. At least 0. Default: 0.0.
        end_learning_rate: The rate at the end. At least 0. Default: 0.0.
        annealing: Interpolation of the decay. Default: LINEAR.
    """

    peak_learning_rate: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    _: KW_ONLY
    initial_learning_rate: float = 0.0
    end_learning_rate: float = 0.0
    annealing: Annealing = Annealing.LINEAR


@dataclass(frozen=True)
class Warmup(Schedule, field="warmup"):
    """A linear start before another schedule.

    A line from initial to schedule(0) over warmup_steps, then schedule(s - warmup_steps).

    The other schedule then counts its steps from 0.

    Attributes:
        schedule: The schedule after the warm-up. Required.
        warmup_steps: Steps of the warm-up. Required. At least 0.
        initial_learning_rate: The rate at step 0. At least 0. Default: 0.0.
    """

    schedule: Schedule
    warmup_steps: int
    _: KW_ONLY
    initial_learning_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Join(Schedule, field="join"):
    """Schedules one after another.

    `schedules[i](s - boundaries[i - 1])`, where i is the number of boundaries <= s.

    Attributes:
        schedules: The schedules: one more than there are boundaries.
        boundaries: Steps at which the next schedule begins, increasing. At least one.
    """

    schedules: Sequence[Schedule] = ()
    boundaries: Sequence[int] = ()


@dataclass(frozen=True)
class LegacyDecay(Schedule, field="legacy_decay"):
    """The decay argument of Keras' legacy optimizers, on top of any schedule.

    schedule(s)/(1 + decay*s).

    Attributes:
        schedule: The schedule that is divided. Required.
        decay: The decay per step. Required. At least 0.
    """

    schedule: Schedule
    decay: float


@dataclass(frozen=True)
class Cyclic(Schedule, field="cyclic"):
    """Cyclical learning rates (Smith, 2017, arXiv:1506.01186), as in PyTorch's CyclicLR.

    base + (max - base)*x*h: x rises from 0 to 1 in step_size_up steps and falls to 0 in step_size_down.

    In cycle number c, counted from 0, the height h is by `form`

        TRIANGULAR   1
        TRIANGULAR2  2^-c
        EXP_RANGE    gamma^s

    Attributes:
        base_learning_rate: The rate between two cycles. Required. At least 0.
        max_learning_rate: The rate at the top of the first cycle, at least base_learning_rate.
            Required. At least 0.
        step_size_up: Steps of the way up. Greater than 0. Default: 2000.0.
        step_size_down: Steps of the way down; 0 for as many as up. At least 0. Default: 0.0.
        form: What the height of a cycle is multiplied by. Default: TRIANGULAR.
        gamma: The factor of each step under EXP_RANGE. Greater than 0. Default: 1.0.
    """

    base_learning_rate: float
    max_learning_rate: float
    _: KW_ONLY
    step_size_up: float = 2000.0
    step_size_down: float = 0.0
    form: CyclicForm = CyclicForm.TRIANGULAR
    gamma: float = 1.0


@dataclass(frozen=True)
class ExpressionSchedule(Schedule, field="expression"):
    """A formula of the caller's own, which stands for PyTorch's LambdaLR.

    f(s), where f is the expression of the variable `step` that the caller sends.

    Attributes:
        expression: The formula, of at most 1024 characters. Required. Its variable is step, 0 on the
            first update. It is written as that of Custom in loss_spec.proto, and has floor, cos and
            mod(x, y) as well; exponents may be any number, and may depend on the step. It is computed in
            float64. Example: "0.1*0.95**floor(step/30)".
        constants: Named constants of the formula: at most 32, each finite, named in ASCII letters,
            digits and underscores.
    """

    expression: str
    _: KW_ONLY
    constants: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Product(Schedule, field="product"):
    """Schedules multiplied, as PyTorch's ChainedScheduler multiplies the factors of its schedulers.

    The product of `schedules[i](s)`, from the first to the last.

    PyTorch's ChainedScheduler multiplies so: one of the schedules holds the rate, and the others are
    factors.

    Attributes:
        schedules: The schedules. At least one.
    """

    schedules: Sequence[Schedule] = ()


@dataclass(frozen=True, kw_only=True)
class PiecewiseInterpolation(Schedule, field="piecewise_interpolation"):
    """Rates interpolated between points, as optax' piecewise_interpolate_schedule.

    From values[i] at boundaries[i - 1], or 0 for i = 0, to values[i + 1] at boundaries[i].

    The last value holds from the last boundary on.

    Attributes:
        boundaries: Steps at which values are reached, at least 1 and increasing. At least one.
        values: The values: one more than there are boundaries.
        annealing: The interpolation. Default: LINEAR.
    """

    boundaries: Sequence[int] = ()
    values: Sequence[float] = ()
    annealing: Annealing = Annealing.LINEAR
