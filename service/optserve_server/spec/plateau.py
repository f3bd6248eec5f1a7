"""Reduction of the learning rate when a metric stops improving.

Covers keras.callbacks.ReduceLROnPlateau, torch.optim.lr_scheduler.ReduceLROnPlateau and
optax.contrib.reduce_on_plateau, which differ in four places; each is a field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from optserve_server.hyperparameters import Hyperparameters, hyper
from optserve_server.spec.metric_comparison import MetricMode, improvement_threshold, is_better, worst_value


class PatienceRule(StrEnum):
    """The bad value that ends patience: number ``patience``, or the next one."""

    REACHED = "REACHED"
    EXCEEDED = "EXCEEDED"


class ThresholdMode(StrEnum):
    """Unit of a threshold: that of the metric, or a fraction of the best value.

    FROM_BEST is ABSOLUTE with the threshold on the other side of the comparison.
    """

    ABSOLUTE = "ABSOLUTE"
    RELATIVE = "RELATIVE"
    FROM_BEST = "FROM_BEST"


class CooldownOrder(StrEnum):
    """Whether a cool-down is counted before or after a value is compared."""

    BEFORE = "BEFORE"
    AFTER = "AFTER"


@dataclass(frozen=True)
class ReduceOnPlateauState:
    """State after the values so far.

    Attributes:
        best_value: the best one; None before the first.
        best_step: the session's step when it was reported.
        waited: consecutive bad values.
        cooldown: values that are left of a cool-down.
        learning_rate_factor: what learning rates are multiplied by.
    """

    best_value: float | None = None
    best_step: int = 0
    waited: int = 0
    cooldown: int = 0
    learning_rate_factor: float = 1.0


@dataclass(frozen=True)
class ReduceOnPlateauSpec(Hyperparameters):
    """Multiplies learning rates by ``factor`` after consecutive bad values."""

    monitor: str = hyper("val_loss")
    mode: MetricMode = hyper(MetricMode.MIN)
    factor: float = hyper(0.1, ge=0, lt=1)
    patience: int = hyper(10, ge=0)
    patience_rule: PatienceRule = hyper(PatienceRule.REACHED, torch=PatienceRule.EXCEEDED)
    threshold: float = hyper(1e-4, ge=0)
    threshold_mode: ThresholdMode = hyper(
        ThresholdMode.ABSOLUTE, torch=ThresholdMode.RELATIVE, optax=ThresholdMode.RELATIVE
    )
    cooldown: int = hyper(0, ge=0)
    cooldown_order: CooldownOrder = hyper(
        CooldownOrder.BEFORE, torch=CooldownOrder.AFTER, optax=CooldownOrder.AFTER
    )
    min_learning_rate: float = hyper(0.0, ge=0)
    min_change: float = hyper(0.0, torch=1e-8, ge=0)
    restart_at_floor: bool = hyper(False, torch=True, optax=True)

    def reduce_rate(self, rate: float, factor: float) -> float:
        """Returns a learning rate under a factor; one that is below the floor already is unchanged."""
        return max(rate * factor, min(rate, self.min_learning_rate))

    def observe(
        self, state: ReduceOnPlateauState, value: float, step: int, drop: Callable[[float], float]
    ) -> ReduceOnPlateauState:
        """Returns the state after one more value.

        Args:
            state: the state before it.
            value: the value.
            step: the session's step.
            drop: by how much another factor would lower a learning rate, at most.
        """
        cooldown = max(state.cooldown - 1, 0)
        ignored = (cooldown if self.cooldown_order is CooldownOrder.BEFORE else state.cooldown) > 0
        improved = self._is_improvement(value, state.best_value)
        waited = 0 if improved or ignored else state.waited + 1
        state = replace(state, waited=waited, cooldown=cooldown)
        if improved:
            state = replace(state, best_value=value, best_step=step)
        return self._lower_learning_rate(state, drop) if waited >= self._bad_values_needed else state

    @property
    def _bad_values_needed(self) -> int:
        return max(self.patience + (self.patience_rule is PatienceRule.EXCEEDED), 1)

    def _lower_learning_rate(
        self, state: ReduceOnPlateauState, drop: Callable[[float], float]
    ) -> ReduceOnPlateauState:
        factor = state.learning_rate_factor * self.factor
        effective = drop(factor) > self.min_change
        if effective or self.restart_at_floor:
            state = replace(state, waited=0, cooldown=self.cooldown)
        return replace(state, learning_rate_factor=factor) if effective else state

    def _is_improvement(self, value: float, best: float | None) -> bool:
        if best is None:
            return is_better(value, worst_value(self.mode), self.mode)
        if self.threshold_mode is ThresholdMode.ABSOLUTE:
            return is_better(improvement_threshold(value, self.threshold, self.mode), best, self.mode)
        ahead = -self.threshold if self.mode is MetricMode.MIN else self.threshold
        relative = self.threshold_mode is ThresholdMode.RELATIVE
        return is_better(value, best * (1.0 + ahead) if relative else best + ahead, self.mode)
