"""Early stopping when a metric stops improving, as keras.callbacks.EarlyStopping does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optserve_server.hyperparameters import Hyperparameters, hyper
from optserve_server.spec.metric_comparison import MetricMode, improvement_threshold, is_better, worst_value


@dataclass(frozen=True)
class EarlyStoppingState:
    """State after the values so far.

    Attributes:
        seen: how many there were.
        best_value: the best one; None before the first.
        best_step: the session's step when it was reported.
        waited: values since one was better, and better than the baseline.
        stopped: whether training has ended.
    """

    seen: int = 0
    best_value: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class EarlyStoppingSpec(Hyperparameters):
    """Ends training after ``patience`` consecutive values that were not better."""

    monitor: str = hyper("val_loss")
    mode: MetricMode = hyper(MetricMode.MIN)
    patience: int = hyper(0, ge=0)
    min_delta: float = hyper(0.0, ge=0)
    baseline: float | None = hyper(None)
    restore_best: bool = hyper(False)
    start_from: int = hyper(0, ge=0)

    def observe(self, state: EarlyStoppingState, value: float, step: int) -> EarlyStoppingState:
        """Returns the state after one more value, reported at ``step``."""
        position = state.seen
        state = replace(state, seen=position + 1)
        if position < self.start_from:
            return state
        waited = state.waited + 1
        if self._is_improvement(value, state.best_value):
            # Beating the best alone is worth its copy, but not the patience.
            if self.baseline is None or self._is_improvement(value, self.baseline):
                waited = 0
            return replace(state, best_value=value, best_step=step, waited=waited)
        # With the very first value nothing can have stopped improving.
        return replace(state, waited=waited, stopped=waited >= self.patience and position > 0)

    def _is_improvement(self, value: float, reference: float | None) -> bool:
        if reference is None:
            return is_better(value, worst_value(self.mode), self.mode)
        return is_better(improvement_threshold(value, self.min_delta, self.mode), reference, self.mode)
