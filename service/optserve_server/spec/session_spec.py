"""Specification of a session, with all defaults resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from optserve_server.errors import DomainError, conflict_error
from optserve_server.hyperparameters import Chosen, Hyperparameters, hyper
from optserve_server.optimizers.base import Rule
from optserve_server.schedules.base import Schedule
from optserve_server.spec.coordination import (
    CoordinationAsync,
    CoordinationRounds,
    CoordinationSpec,
    CoordinationSync,
    Damping,
)
from optserve_server.spec.data_plan import DataPlanSpec
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.plateau import ReduceOnPlateauSpec


class NonFinitePolicy(StrEnum):
    """Handling of NaN or infinity in a gradient."""

    REJECT = "REJECT"
    SKIP = "SKIP"
    ALLOW = "ALLOW"


class SparseUpdate(StrEnum):
    """Handling of the rows that sparse rows leave out."""

    LAZY = "LAZY"
    DENSE = "DENSE"


@dataclass(frozen=True)
class ClipByValue(Hyperparameters):
    """Each element into [min_value, max_value]; min_value is -max_value when None."""

    max_value: float = hyper()
    min_value: float | None = hyper(None)

    def __post_init__(self) -> None:
        if self.min_value is None:
            # Resolved here, so that a session's echo states it.
            object.__setattr__(self, "min_value", -self.max_value)
        super().__post_init__()

    def validate(self) -> None:
        """Refuses an empty range."""
        if self.low > self.max_value:
            text = f"min_value is {self.low}, but must be at most max_value, {self.max_value}"
            raise conflict_error("min_value", text)

    @property
    def low(self) -> float:
        """The lower end."""
        return -self.max_value if self.min_value is None else self.min_value


@dataclass(frozen=True)
class ClipByNorm(Hyperparameters):
    """Times min(1, max_norm/(norm + epsilon))."""

    max_norm: float = hyper(gt=0)
    epsilon: float = hyper(0.0, torch=1e-6, ge=0)

    def scale_factor(self, norm: float) -> float:
        """What a gradient of this norm is multiplied by: NaN where the norm is NaN, 0 where it is infinite.

        As in PyTorch and optax; min(1, NaN) would be 1 and let such a gradient pass unclipped.
        """
        length = norm + self.epsilon
        return 1.0 if length <= self.max_norm else self.max_norm / length


@dataclass(frozen=True)
class ClipByTensorNorm(ClipByNorm):
    """Each tensor by its own norm."""


@dataclass(frozen=True)
class ClipByGlobalNorm(ClipByNorm):
    """All tensors by their joint norm."""


@dataclass(frozen=True)
class GradientSpec(Hyperparameters):
    """Gradient preprocessing."""

    accumulation_steps: int = hyper(1, ge=1)
    l1: float = hyper(0.0, ge=0)
    l2: float = hyper(0.0, ge=0)
    clip: ClipByValue | ClipByTensorNorm | ClipByGlobalNorm | None = hyper(None)
    non_finite: NonFinitePolicy = hyper(NonFinitePolicy.REJECT)
    sparse: SparseUpdate = hyper(SparseUpdate.DENSE, torch=SparseUpdate.LAZY)


class WeightAverageStart(StrEnum):
    """Initial value of a weight average."""

    COPY = "COPY"
    ZERO_DEBIASED = "ZERO_DEBIASED"
    ZERO = "ZERO"


@dataclass(frozen=True)
class WeightAverageSpec(Hyperparameters):
    """Exponential moving average of the weights, a += rate*(p - a).

    COPY           the first step copies p (Keras, PyTorch)
    ZERO_DEBIASED  a starts at 0 and is divided by 1 - decay^t (optax.ema)
    ZERO           a starts at 0 (optax.ema without debias)
    """

    decay: float = hyper(0.99, torch=0.999, ge=0, lt=1)
    start: WeightAverageStart = hyper(WeightAverageStart.COPY, optax=WeightAverageStart.ZERO_DEBIASED)
    every_micro_batch: bool = hyper(True, torch=False, optax=False, lecture=False)

    @property
    def is_updated_between_steps(self) -> bool:
        """Whether it moves with micro-batches that complete no step."""
        return self.every_micro_batch and self.start is not WeightAverageStart.ZERO_DEBIASED

    def averaging_rate(self, step: int) -> float:
        """The average's share of what is new at step t, counted from 1.

        Debiased, a_t/(1 - decay^t) moves by (1 - decay)/(1 - decay^t), which is 1 at first.
        """
        added = 1 - self.decay
        if self.start is WeightAverageStart.ZERO:
            return added
        if self.start is WeightAverageStart.COPY:
            return 1.0 if step == 1 else added
        return added / -math.expm1(step * math.log1p(-added)) if self.decay else 1.0


class ExpiryAction(StrEnum):
    """Handling of a session whose lease expired."""

    EVICT = "EVICT"
    DELETE = "DELETE"


@dataclass(frozen=True)
class LeaseSpec(Hyperparameters):
    """How long a session may be unused."""

    seconds: float = hyper(gt=0)
    on_expiry: ExpiryAction = hyper(ExpiryAction.EVICT)


class DurabilityMode(StrEnum):
    """Durability modes of a session."""

    JOURNAL = "JOURNAL"
    SNAPSHOT = "SNAPSHOT"
    EPHEMERAL = "EPHEMERAL"


@dataclass(frozen=True)
class DurabilitySpec(Hyperparameters):
    """How much of a session is stored on the server's disk."""

    mode: DurabilityMode = hyper(DurabilityMode.JOURNAL)
    snapshot_steps: int | None = hyper(None, ge=1)
    snapshot_seconds: float = hyper(60.0, gt=0)


class StepCounting(StrEnum):
    """Which steps a rule counts, as in bias corrections."""

    PER_SESSION = "PER_SESSION"
    PER_TENSOR = "PER_TENSOR"


@dataclass(frozen=True)
class ParameterGroup(Hyperparameters):
    """Tensors with settings of their own; None means the session's setting."""

    name: str = hyper()
    tensors: tuple[str, ...] = hyper(())
    learning_rate_factor: float = hyper(1.0, ge=0)
    decoupled_weight_decay: float | None = hyper(None, ge=0)
    optimizer: Chosen[Rule] | None = hyper(None)
    l1: float | None = hyper(None, ge=0)
    l2: float | None = hyper(None, ge=0)
    frozen: bool = hyper(False)


@dataclass(frozen=True)
class SessionSpec(Hyperparameters):
    """A session's specification."""

    optimizer: Chosen[Rule] = hyper()
    schedule: Chosen[Schedule] | None = hyper(None)
    gradient: GradientSpec = hyper(GradientSpec())
    decoupled_weight_decay: float | None = hyper(None, ge=0)
    weight_average: WeightAverageSpec | None = hyper(None)
    groups: tuple[ParameterGroup, ...] = hyper(())
    reduce_on_plateau: ReduceOnPlateauSpec | None = hyper(None)
    early_stopping: EarlyStoppingSpec | None = hyper(None)
    lease: LeaseSpec | None = hyper(None)
    durability: DurabilitySpec | None = hyper(None)
    step_counting: StepCounting = hyper(StepCounting.PER_SESSION, torch=StepCounting.PER_TENSOR)
    coordination: CoordinationSpec | None = hyper(None)
    data_plan: DataPlanSpec | None = hyper(None)

    def validate(self) -> None:
        """Refuses a learning rate beside a schedule, and what changes the rate of a rule without one."""
        chosen = {"optimizer": self.optimizer}
        for index, group in enumerate(self.groups):
            if group.optimizer is not None:
                chosen[f"groups[{index}].optimizer"] = group.optimizer
        for path, optimizer in chosen.items():
            rule = optimizer.algorithm
            if self.schedule is not None and "learning_rate" in optimizer.given:
                field = f"{path}.{rule.name}.learning_rate"
                raise conflict_error(field, "a learning rate is stated beside a schedule")
            for field in ("schedule", "reduce_on_plateau"):
                if getattr(self, field) is not None and not rule.has_rate:
                    raise _no_learning_rate_error(field, path, rule)
        for index, group in enumerate(self.groups):
            if group.learning_rate_factor != 1 and not self.group_rule(group).has_rate:
                path = f"groups[{index}].optimizer" if group.optimizer is not None else "optimizer"
                raise _no_learning_rate_error(
                    f"groups[{index}].learning_rate_factor", path, self.group_rule(group)
                )
        self._validate_coordination(chosen)

    def _validate_coordination(self, chosen: Mapping[str, Chosen[Rule]]) -> None:
        coordination = self.coordination
        aggregates = isinstance(coordination, CoordinationSync | CoordinationRounds)
        if aggregates and self.gradient.accumulation_steps > 1:
            text = "gradients are aggregated over workers or accumulated, not both"
            raise conflict_error("gradient.accumulation_steps", text)
        if isinstance(coordination, CoordinationAsync) and coordination.damping is not Damping.NONE:
            for path, optimizer in chosen.items():
                if not optimizer.algorithm.has_rate:
                    raise _no_learning_rate_error("coordination.async.damping", path, optimizer.algorithm)

    def group_rule(self, group: ParameterGroup | None) -> Rule:
        """The rule of a group; None stands for the default group."""
        chosen = group.optimizer if group is not None and group.optimizer is not None else self.optimizer
        return chosen.algorithm

    @property
    def groups_by_name(self) -> dict[str, ParameterGroup | None]:
        """The parameter groups by name; the default group, None, has an empty one."""
        return {"": None, **{group.name: group for group in self.groups}}

    @property
    def frozen_groups(self) -> frozenset[str]:
        """Names of the groups whose tensors stay as they are."""
        return frozenset(group.name for group in self.groups if group.frozen)

    def l1_factor(self, group: ParameterGroup | None) -> float:
        """The factor of L1 regularization of a group: its own, or the session's."""
        return self.gradient.l1 if group is None or group.l1 is None else group.l1

    def l2_factor(self, group: ParameterGroup | None) -> float:
        """The factor of L2 regularization of a group: its own, or the session's."""
        return self.gradient.l2 if group is None or group.l2 is None else group.l2

    def weight_decay(self, group: ParameterGroup | None) -> float:
        """The decoupled weight decay of a group: its own, the session's or the rule's."""
        if group is not None and group.decoupled_weight_decay is not None:
            return group.decoupled_weight_decay
        if self.decoupled_weight_decay is not None:
            return self.decoupled_weight_decay
        return self.group_rule(group).decoupled_weight_decay


def _no_learning_rate_error(field: str, path: str, rule: Rule) -> DomainError:
    """The error of a field that changes the learning rate of a rule without one."""
    text = f"{field} changes a learning rate, but {path} is {rule.name}, whose steps have none"
    return conflict_error(field, text)
