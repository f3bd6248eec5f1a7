"""What a session is asked to be.

Written by tools/generate_specs.py from optserve/v1/session.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice, Spec
from optserve.specs.enums import (
    CooldownOrder,
    DurabilityMode,
    ExpiryAction,
    MetricMode,
    NonFinitePolicy,
    PatienceRule,
    SparseUpdate,
    StepCounting,
    ThresholdMode,
    WeightAverageStart,
)
from optserve.specs.optimizers import Optimizer
from optserve.specs.schedules import Schedule
from optserve.v1 import session_pb2


@dataclass(frozen=True)
class SessionSpec(Spec, message=session_pb2.SessionSpec):
    """What a client asks of a session.

    A server answers with every field resolved.

    Attributes:
        optimizer: The optimizer. Required.
        schedule: Learning rate by step. Takes the place of the optimizers' own rates; stating a rate
            as well is refused.
        gradient: What happens to a gradient before the rule sees it.
        decoupled_weight_decay: p -= lr*decoupled_weight_decay*p before the rule. At least 0.
        weight_average: Average of the weights, kept beside them. Off when unset.
        groups: Tensors that are treated differently from the rest.
        reduce_on_plateau: Lowers the learning rate when a reported metric stops improving. Off when
            unset.
        early_stopping: Ends training when a reported metric stops improving. Off when unset.
        lease: What happens when nobody uses the session any more. Without it the server's own lease
            holds, if it has one, and never deletes.
        durability: What of it comes back when the server is lost. The server's own default when
            unset: JOURNAL where it has a data directory, EPHEMERAL where it has none.
        step_counting: Which steps a rule counts, where its formula depends on how many there were:
            PER_TENSOR under the TORCH convention, else PER_SESSION.
    """

    optimizer: Optimizer
    _: KW_ONLY
    schedule: Schedule | None = None
    gradient: Gradient | None = None
    decoupled_weight_decay: float | None = None
    weight_average: WeightAverage | None = None
    groups: Sequence[ParameterGroup] = ()
    reduce_on_plateau: ReduceOnPlateau | None = None
    early_stopping: EarlyStopping | None = None
    lease: Lease | None = None
    durability: Durability | None = None
    step_counting: ByConvention[StepCounting] = None


@dataclass(frozen=True, kw_only=True)
class Gradient(Spec, message=session_pb2.GradientSpec):
    """Gradient preprocessing, in the order in which it happens.

    the loss scale is divided out, micro-batches are accumulated, regularisation gradients are added, the
    result is checked for non-finite elements and clipped.

    Attributes:
        accumulation_steps: A step is taken on the mean of this many gradients. At least 1; 1 when
            unset.
        l1: Adds l1*sign(p): the gradient of l1*sum(|p|). At least 0. Default: 0.0.
        l2: Adds l2*p: the gradient of l2*sum(p^2)/2. At least 0. Default: 0.0.
        clip: Clipping. Off when unset.
        non_finite: What a NaN or infinity in a gradient does; REJECT when unset.
        sparse: What sparse rows mean for the rows that they leave out; LAZY under the TORCH
            convention, as in torch.optim.SparseAdam, else DENSE.
    """

    accumulation_steps: int = 1
    l1: float = 0.0
    l2: float = 0.0
    clip: Clip | None = None
    non_finite: NonFinitePolicy = NonFinitePolicy.REJECT
    sparse: ByConvention[SparseUpdate] = None


@dataclass(frozen=True)
class Clip(Choice, message=session_pb2.ClipSpec, oneof="clip"):
    """Gradient clipping."""


@dataclass(frozen=True)
class ClipByValue(Clip, field="by_value"):
    """Each element is moved into [min_value, max_value].

    Attributes:
        max_value: Upper end. Required.
        min_value: Lower end; -max_value when unset.
    """

    max_value: float
    _: KW_ONLY
    min_value: float | None = None


@dataclass(frozen=True)
class ClipByTensorNorm(Clip, field="by_tensor_norm"):
    """Each tensor by its own norm.

    Attributes:
        max_norm: The largest Euclidean norm that passes unchanged. Required. Greater than 0.
        epsilon: Added to the norm: 1e-6 under the TORCH convention, else 0. At least 0.
    """

    max_norm: float
    _: KW_ONLY
    epsilon: ByConvention[float] = None


@dataclass(frozen=True)
class ClipByGlobalNorm(Clip, field="by_global_norm"):
    """All tensors by their joint norm.

    Attributes:
        max_norm: The largest Euclidean norm that passes unchanged. Required. Greater than 0.
        epsilon: Added to the norm: 1e-6 under the TORCH convention, else 0. At least 0.
    """

    max_norm: float
    _: KW_ONLY
    epsilon: ByConvention[float] = None


@dataclass(frozen=True, kw_only=True)
class WeightAverage(Spec, message=session_pb2.WeightAverageSpec):
    """An exponential moving average of the weights: a += (1 - decay)*(p - a) after each step.

    Pulled with ParameterPoint.AVERAGE.

    Attributes:
        decay: Share of the last average that is kept; 0.999 under the TORCH convention, else 0.99
            when unset. In [0, 1).
        start: What it starts from. Default: COPY (KERAS, TORCH, LECTURE), ZERO_DEBIASED (OPTAX).
        every_micro_batch: Whether it moves with every micro-batch that is accumulated as well, once
            there was a step; Keras. ZERO_DEBIASED counts steps and moves with them alone. Default: True
            (KERAS), False (TORCH, OPTAX, LECTURE).
    """

    decay: ByConvention[float] = None
    start: ByConvention[WeightAverageStart] = None
    every_micro_batch: ByConvention[bool] = None


@dataclass(frozen=True)
class ParameterGroup(Spec, message=session_pb2.ParameterGroup):
    """Tensors with settings of their own.

    Attributes:
        name: Name of the group, unique in its session. Required.
        tensors: Members: tensor names, or shell patterns (*, ?, [...]) over them. Each must match at
            least one tensor, and no tensor may belong to two groups.
        learning_rate_factor: Multiplies the learning rate; 1 when unset. At least 0.
        decoupled_weight_decay: Takes the place of the session's decoupled weight decay. At least 0.
        optimizer: Takes the place of the session's optimizer.
        l1: Takes the place of the session's l1. At least 0.
        l2: Takes the place of the session's l2. At least 0.
        frozen: Whether the tensors stay as they are. Steps may leave them out, and a gradient that is
            given for one counts in no norm and changes nothing. Default: False.
    """

    name: str
    _: KW_ONLY
    tensors: Sequence[str] = ()
    learning_rate_factor: float = 1.0
    decoupled_weight_decay: float | None = None
    optimizer: Optimizer | None = None
    l1: float | None = None
    l2: float | None = None
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class ReduceOnPlateau(Spec, message=session_pb2.ReduceOnPlateauSpec):
    """Lowers the learning rate whenever a metric has stopped improving.

    Metrics come with ReportMetrics. Values that are not better than the best one count as bad, NaN always
    among them, and enough of them in a row multiply the rate by a factor: the optimizer's own rate, or
    that of a schedule from then on.

    Attributes:
        monitor: Name of the metric; "val_loss" when unset.
        mode: Which values are better; MIN when unset.
        factor: What the rate is multiplied by; in [0, 1), 0.1 when unset.
        patience: How many bad values in a row are suffered; 10 when unset. At least 0.
        patience_rule: Whether the rate falls when the count of bad values reaches the patience, or
            when it exceeds it; EXCEEDED under the TORCH convention, else REACHED.
        threshold: By how much a value has to be better than the best one; 1e-4 when unset. At least
            0.
        threshold_mode: What the threshold is measured in; RELATIVE under the TORCH and OPTAX
            conventions, else ABSOLUTE.
        cooldown: Values after a reduction during which none counts as bad; 0 when unset. At least 0.
        cooldown_order: Whether the last value of a cool-down may count as bad; AFTER under the TORCH
            and OPTAX conventions, else BEFORE.
        min_learning_rate: A reduction leaves no rate below this; 0 when unset. Rates that are lower
            by themselves, as during a schedule's warm-up, stay as they are. With parameter groups it
            holds for the rate of each. At least 0.
        min_change: A reduction that lowers no rate by more than this is not made; 1e-8 under the
            TORCH convention, else 0. At least 0.
        restart_at_floor: Whether bad values are counted anew, and a cool-down begins, after a
            reduction that was due but not made. Otherwise each further bad value tries again. True under
            the TORCH and OPTAX conventions, else false.
    """

    monitor: str = "val_loss"
    mode: MetricMode = MetricMode.MIN
    factor: float = 0.1
    patience: int = 10
    patience_rule: ByConvention[PatienceRule] = None
    threshold: float = 0.0001
    threshold_mode: ByConvention[ThresholdMode] = None
    cooldown: int = 0
    cooldown_order: ByConvention[CooldownOrder] = None
    min_learning_rate: float = 0.0
    min_change: ByConvention[float] = None
    restart_at_floor: ByConvention[bool] = None


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Spec, message=session_pb2.EarlyStoppingSpec):
    """Ends training when a metric, which comes with ReportMetrics, has stopped improving.

    Steps are then refused with ErrorReason.TRAINING_STOPPED. Semantics and defaults are those of Keras
    under every convention.

    Attributes:
        monitor: Name of the metric; "val_loss" when unset.
        mode: Which values are better; MIN when unset.
        patience: Training ends when this many values in a row were not better; 0 when unset. A NaN is
            never better. At least 0.
        min_delta: By how much a value has to be better than the best one; 0 when unset. At least 0.
        baseline: Values have to be better than this as well for the count to start anew. No such
            bound when unset.
        restore_best: Whether the server keeps a copy of the parameters at the best value, and puts it
            back when training ends; false when unset. Optimizer state and the average of the weights stay
            as they are.
        start_from: How many values at the beginning are left aside; 0 when unset. At least 0.
    """

    monitor: str = "val_loss"
    mode: MetricMode = MetricMode.MIN
    patience: int = 0
    min_delta: float = 0.0
    baseline: float | None = None
    restore_best: bool = False
    start_from: int = 0


@dataclass(frozen=True)
class Lease(Spec, message=session_pb2.LeaseSpec):
    """How long a session may be left alone.

    Every call that names it is a use, and so is every step of a stream; a stream that waits is none.

    Attributes:
        seconds: Seconds after the last use, greater than 0. Required.
        on_expiry: What happens then; EVICT when unset.
    """

    seconds: float
    _: KW_ONLY
    on_expiry: ExpiryAction = ExpiryAction.EVICT


@dataclass(frozen=True, kw_only=True)
class Durability(Spec, message=session_pb2.DurabilitySpec):
    """How much of a session is kept on the server's disk.

    Attributes:
        mode: Which of the ways; JOURNAL when unset.
        snapshot_steps: Under SNAPSHOT: saved when this many steps were taken since. Only by time when
            unset. At least 1.
        snapshot_seconds: Under SNAPSHOT: saved when there were changes and this much time has passed
            since; 60 when unset. Greater than 0.
    """

    mode: DurabilityMode = DurabilityMode.JOURNAL
    snapshot_steps: int | None = None
    snapshot_seconds: float = 60.0
