"""Specification of a session.

Written by tools/generate_specs.py from optserve/v1/session.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice, Spec
from optserve.specs.enums import (
    Aggregation,
    CooldownOrder,
    Damping,
    DurabilityMode,
    ExpiryAction,
    LateContribution,
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
    """The specification of a session.

    A server answers with every field resolved.

    Attributes:
        optimizer: The optimizer. Required.
        schedule: Learning rate by step. Replaces the optimizers' own rates; both together are
            rejected.
        gradient: Gradient preprocessing, before the rule.
        decoupled_weight_decay: p -= lr*decoupled_weight_decay*p before the rule. At least 0.
        weight_average: Average of the weights, stored in addition to them. Off when unset.
        groups: Parameter groups: tensors with different settings.
        reduce_on_plateau: Lowers the learning rate when a reported metric stops improving. Off when
            unset.
        early_stopping: Ends training when a reported metric stops improving. Off when unset.
        lease: What happens to a session that is not used. The server's own lease when unset, if it
            has one; that one never deletes.
        durability: What a crash of the server cannot lose. The server's own default when unset:
            JOURNAL if it has a data directory, EPHEMERAL otherwise.
        step_counting: Which steps a rule counts, if its formula depends on their number: PER_TENSOR
            under the TORCH convention, else PER_SESSION.
        coordination: How the steps of several workers are combined. Steps are independent of each
            other when unset, as under SOLO.
        data_plan: The data that the session is trained on, which its members share out among
            themselves. No plan when unset. UpdateSession keeps the plan when unset, may begin one, and
            may change nothing but its epochs, which cannot become fewer than have begun.
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
    coordination: Coordination | None = None
    data_plan: DataPlan | None = None


@dataclass(frozen=True, kw_only=True)
class Gradient(Spec, message=session_pb2.GradientSpec):
    """Gradient preprocessing, in this order.

    division by the loss scale, accumulation of micro-batches, addition of regularisation gradients, check
    for non-finite elements, clipping.

    Attributes:
        accumulation_steps: Number of gradients whose mean makes a step. At least 1; 1 when unset.
        l1: Adds l1*sign(p): the gradient of l1*sum(|p|). At least 0. Default: 0.0.
        l2: Adds l2*p: the gradient of l2*sum(p^2)/2. At least 0. Default: 0.0.
        clip: Clipping. Off when unset.
        non_finite: How NaN and infinite elements are handled; REJECT when unset.
        sparse: How the rows that sparse gradients leave out are handled; LAZY under the TORCH
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
    """Each element is clipped to [min_value, max_value].

    Attributes:
        max_value: Upper end. Required.
        min_value: Lower end; -max_value when unset.
    """

    max_value: float
    _: KW_ONLY
    min_value: float | None = None


@dataclass(frozen=True)
class ClipByTensorNorm(Clip, field="by_tensor_norm"):
    """Each tensor is clipped by its own norm.

    Attributes:
        max_norm: Maximum Euclidean norm. Required. Greater than 0.
        epsilon: Added to the norm: 1e-6 under the TORCH convention, else 0. At least 0.
    """

    max_norm: float
    _: KW_ONLY
    epsilon: ByConvention[float] = None


@dataclass(frozen=True)
class ClipByGlobalNorm(Clip, field="by_global_norm"):
    """All tensors are clipped by their joint norm.

    Attributes:
        max_norm: Maximum Euclidean norm. Required. Greater than 0.
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
        decay: Exponential decay rate of the average; 0.999 under the TORCH convention, else 0.99 when
            unset. In [0, 1).
        start: Its initial value. Default: COPY (KERAS, TORCH, LECTURE), ZERO_DEBIASED (OPTAX).
        every_micro_batch: Whether accumulated micro-batches update it too, after the first step;
            Keras. ZERO_DEBIASED counts steps and is updated by steps only. Default: True (KERAS), False
            (TORCH, OPTAX, LECTURE).
    """

    decay: ByConvention[float] = None
    start: ByConvention[WeightAverageStart] = None
    every_micro_batch: ByConvention[bool] = None


@dataclass(frozen=True)
class ParameterGroup(Spec, message=session_pb2.ParameterGroup):
    """A parameter group: tensors with their own settings.

    Attributes:
        name: Name of the group, unique in its session. Required.
        tensors: Members: tensor names, or shell patterns (*, ?, [...]) over them. Each must match at
            least one tensor, and no tensor may belong to two groups.
        learning_rate_factor: Multiplies the learning rate; 1 when unset. At least 0.
        decoupled_weight_decay: Replaces the session's decoupled weight decay. At least 0.
        optimizer: Replaces the session's optimizer.
        l1: Replaces the session's l1. At least 0.
        l2: Replaces the session's l2. At least 0.
        frozen: Whether the tensors are not trained. Steps may leave them out; a gradient for one
            counts in no norm and changes nothing. Default: False.
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

    Metrics are sent by ReportMetrics. A value that is not better than the best one is bad, and so is NaN.
    After enough consecutive bad values the learning rate, the optimizer's or the schedule's, is
    multiplied by a factor from then on.

    Attributes:
        monitor: Name of the metric; "val_loss" when unset.
        mode: Which values are better; MIN when unset.
        factor: Factor of the rate; in [0, 1), 0.1 when unset.
        patience: Number of consecutive bad values before a reduction; 10 when unset. At least 0.
        patience_rule: Whether the rate is reduced when the number of bad values reaches the patience,
            or when it exceeds it; EXCEEDED under the TORCH convention, else REACHED.
        threshold: Minimum improvement over the best value; 1e-4 when unset. At least 0.
        threshold_mode: How the threshold is measured; RELATIVE under the TORCH and OPTAX conventions,
            else ABSOLUTE.
        cooldown: Values after a reduction during which none counts as bad; 0 when unset. At least 0.
        cooldown_order: When the values of a cool-down are counted; AFTER under the TORCH and OPTAX
            conventions, else BEFORE.
        min_learning_rate: Lower bound of a reduced rate; 0 when unset. A schedule's own lower rates,
            as in a warm-up, do not change. With parameter groups it bounds the rate of each. At least 0.
        min_change: Minimum change: a reduction that lowers no rate by more than this is omitted; 1e-8
            under the TORCH convention, else 0. At least 0.
        restart_at_floor: Whether the count of bad values is reset, and a cool-down begins, after a
            reduction that was omitted. Otherwise each further bad value causes another attempt. True
            under the TORCH and OPTAX conventions, else false.
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
    """Ends training when a metric of ReportMetrics has stopped improving.

    Steps are then rejected with ErrorReason.TRAINING_STOPPED. Semantics and defaults are those of Keras
    under every convention.

    Attributes:
        monitor: Name of the metric; "val_loss" when unset.
        mode: Which values are better; MIN when unset.
        patience: Training ends after this number of consecutive values without improvement; 0 when
            unset. A NaN is never better. At least 0.
        min_delta: Minimum improvement over the best value; 0 when unset. At least 0.
        baseline: Only values better than this reset the count. No such bound when unset.
        restore_best: Whether the server keeps a copy of the parameters at the best value, and
            restores it when training ends; false when unset. Optimizer state and the average of the
            weights are not restored.
        start_from: Number of values at the beginning that are ignored; 0 when unset. At least 0.
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
    """How long a session may be unused.

    Every call that names it is a use, and so is every step of a stream; a stream that waits is not.

    Attributes:
        seconds: Seconds after the last use, greater than 0. Required.
        on_expiry: What happens when the lease expires; EVICT when unset.
    """

    seconds: float
    _: KW_ONLY
    on_expiry: ExpiryAction = ExpiryAction.EVICT


@dataclass(frozen=True, kw_only=True)
class Durability(Spec, message=session_pb2.DurabilitySpec):
    """How much of a session is stored on the server's disk.

    Attributes:
        mode: The mode; JOURNAL when unset.
        snapshot_steps: Under SNAPSHOT: number of steps between two snapshots. By time only when
            unset. At least 1.
        snapshot_seconds: Under SNAPSHOT: seconds between two snapshots, if there were changes; 60
            when unset. Greater than 0.
    """

    mode: DurabilityMode = DurabilityMode.JOURNAL
    snapshot_steps: int | None = None
    snapshot_seconds: float = 60.0


@dataclass(frozen=True)
class Coordination(Choice, message=session_pb2.CoordinationSpec, oneof="mode"):
    """How the steps of several workers are combined.

    Except under SOLO, a step needs a member's worker_epoch; see WorkerService. UpdateSession may change
    it between two steps, unless a round is open; contributions that wait are then decided on again.
    """


@dataclass(frozen=True)
class CoordinationSolo(Coordination, field="solo"):
    """Each step is applied when it arrives, from any client.

    A step that states an epoch is rejected if that has ended.
    """


@dataclass(frozen=True, kw_only=True)
class CoordinationSync(Coordination, field="sync"):
    """Synchronous data-parallel training.

    A step waits until enough contributions are there. They are aggregated in the order of ranks, in the
    parameters' element types, so that the bits of the result do not depend on the order of arrival; the
    aggregate is one step of the session, and each contributor gets its result. A contribution has the
    gradient of every tensor that is not frozen, no overrides, and parameters_step. A member whose
    contribution is skipped is not waited for; its next one counts as any other.

    Attributes:
        replicas_to_aggregate: Number of contributions that make a step, at least 1. Every member when
            unset. Never more than there are members, so that a lost member does not stop the others;
            those beyond it are backup workers.
        min_replicas: A step waits until there are so many contributions, even if members were lost or
            the time-out has passed. Members that wait for shards of the data plan count as if they had
            contributed, because they have nothing to contribute. At least 1; 1 when unset.
        straggler_timeout_seconds: Seconds after the first contribution of a step at which it is taken
            with those that are there, if they are min_replicas. Greater than 0. No time-out when unset.
        late: What is done with a contribution that was computed at an earlier step; DROP when unset.
        aggregation: How gradients are aggregated; MEAN when unset.
        weight_by_examples: Whether MEAN, SUM and NORM_BOUNDED_MEAN multiply each gradient by its
            example_count, and means divide by their sum; false when unset.
        trim: Of TRIMMED_MEAN: how many of the smallest and of the largest values of each element are
            left out, at least 0; 1 when unset. As many as leave one value if there are too few
            contributions.
        max_norm: Of NORM_BOUNDED_MEAN: the Euclidean norm of all tensors above which a contribution
            is scaled down to it. Greater than 0; required there.
    """

    replicas_to_aggregate: int | None = None
    min_replicas: int = 1
    straggler_timeout_seconds: float | None = None
    late: LateContribution = LateContribution.DROP
    aggregation: Aggregation = Aggregation.MEAN
    weight_by_examples: bool = False
    trim: int = 1
    max_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class CoordinationAsync(Coordination, field="async"):
    """Asynchronous training.

    The staleness of a contribution is the number of steps between parameters_step and the session's step.

    Attributes:
        damping: How the learning rate is reduced for stale gradients; NONE when unset.
        damping_factor: Of EXPONENTIAL: in (0, 1]; 0.5 when unset.
        max_staleness: Staleness above which a contribution is rejected with STALE. At least 0. No
            limit when unset.
    """

    damping: Damping = Damping.NONE
    damping_factor: float = 0.5
    max_staleness: int | None = None


@dataclass(frozen=True)
class CoordinationBounded(Coordination, field="bounded"):
    """Stale synchronous parallel training.

    A contribution that would put its sender more than max_lead contributions ahead of the slowest member
    waits until that has caught up, left, lost its lease, or waits for shards of the data plan. A
    contribution that is skipped counts as any other. A member that joins begins where the slowest one is.

    Attributes:
        max_lead: At least 1. Required.
    """

    max_lead: int


@dataclass(frozen=True)
class CoordinationRounds(Coordination, field="rounds"):
    """Federated training in rounds.

    A contribution is the change of the parameters (local parameters minus those that were pulled) of
    every tensor that is not frozen, with example_count. It is added to the round and answered with
    StepOutcome.ACCUMULATED. A round closes when buffer_size contributions are there, when every member
    has contributed, or when its deadline passes. Every member means every one that may contribute: not
    one that has left, whose lease has run out, or that waits for shards of the data plan. So a round
    without a deadline waits for its members alone. A member that joins again has contributed if its
    earlier epoch has. Then the mean of the changes, weighted by example_count, is negated and becomes the
    gradient of one step of the session's optimizer. SGD with a learning rate of 1 is FedAvg; FedAvgM,
    FedAdagrad, FedAdam and FedYogi are optimizers; Nesterov momentum is DiLoCo. A member whose
    contribution was accumulated MAY wait for the next round by PullParametersRequest.newer_than_step, or
    contribute again. One whose contribution was skipped or rejected, or that has not contributed, MUST
    NOT wait so: the round may be waiting for it.

    Attributes:
        buffer_size: Number of contributions that close a round, even if there are members that have
            not contributed; at least 1; the buffer of FedBuff. Required.
        max_active: Largest number of members. No limit when unset. At least 1.
        deadline_seconds: Seconds after the first contribution of a round at which it closes. Greater
            than 0. No deadline when unset.
        max_staleness: Rounds by which a contribution may be late; ROUND_CLOSED otherwise. At least 0;
            0 when unset.
        damping: Factor of a late contribution's example_count; NONE when unset.
        damping_factor: Of EXPONENTIAL: in (0, 1]; 0.5 when unset.
        min_contributions: A round waits until there are so many contributions, even if every member
            has contributed or the deadline has passed. Members that wait for shards count as if they had
            contributed. At least 1, at most buffer_size and max_active; 1 when unset.
    """

    buffer_size: int
    _: KW_ONLY
    max_active: int | None = None
    deadline_seconds: float | None = None
    max_staleness: int = 0
    damping: Damping = Damping.NONE
    damping_factor: float = 0.5
    min_contributions: int = 1


@dataclass(frozen=True)
class DataPlan(Spec, message=session_pb2.DataPlanSpec):
    """A plan by which each example is used exactly once in each epoch.

    Examples are numbered from 0. Shard i has the examples from i*shard_size up to, and without, min((i +
    1)*shard_size, example_count); a session has n shards, example_count divided by shard_size and rounded
    up. Members lease shards by AcquireShards, and state those that a step was computed of as its
    completed_shards: a shard is complete if and only if that step is recorded.

    Attributes:
        example_count: Number of examples, at least 1. Required.
        shard_size: Number of examples of a shard, at least 1; the last one may have fewer. Required.
            A shard is completed as a whole, so it is what one step uses, or a part of that.
        seed: Seed of the permutations, at least 0; 0 when unset.
        epochs: How often each example is used, at least 1; 1 when unset.
    """

    example_count: int
    shard_size: int
    _: KW_ONLY
    seed: int = 0
    epochs: int = 1
