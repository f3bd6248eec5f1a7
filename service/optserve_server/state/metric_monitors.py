"""Monitors of reported metrics: learning rate reduction on a plateau, early stopping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.arrays.kernel import Array
from optserve_server.errors import DomainError, Reason
from optserve_server.programs.step_programs import make_programs
from optserve_server.spec.early_stopping import EarlyStoppingState
from optserve_server.spec.plateau import ReduceOnPlateauState
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.arenas import Arenas, resident_bytes
from optserve_server.state.layout import Layout


@dataclass(frozen=True)
class MetricMonitors:
    """State of the monitored metrics.

    Attributes:
        plateau: state of ``reduce_on_plateau``; None without it.
        stopping: state of ``early_stopping``; None without it.
        best: copy of the parameters at the best value, one array for each dtype; None without
            one. It is allocated at the beginning, so that no report fails because memory is
            missing.
    """

    plateau: ReduceOnPlateauState | None
    stopping: EarlyStoppingState | None
    best: Mapping[np.dtype[Any], Array] | None

    @classmethod
    def make_initial(cls, spec: SessionSpec, arenas: Arenas) -> MetricMonitors:
        """The state before any report."""
        best = None
        if keeps_best(spec):
            sizes = arenas.layout.arena_sizes.items()
            best = {dtype: arenas.backend.full(size, 0.0, dtype) for dtype, size in sizes}
        return cls(
            None if spec.reduce_on_plateau is None else ReduceOnPlateauState(),
            None if spec.early_stopping is None else EarlyStoppingState(),
            best,
        )

    def replace_spec(self, before: SessionSpec, after: SessionSpec, arenas: Arenas) -> MetricMonitors:
        """Returns the state under another specification; unchanged settings keep their state."""
        plateau, stopping, best = self.plateau, self.stopping, self.best
        if before.reduce_on_plateau != after.reduce_on_plateau:
            plateau = None if after.reduce_on_plateau is None else ReduceOnPlateauState()
        if before.early_stopping != after.early_stopping:
            fresh = MetricMonitors.make_initial(after, arenas)
            stopping, best = fresh.stopping, fresh.best
        return MetricMonitors(plateau, stopping, best)

    @property
    def learning_rate_factor(self) -> float:
        """What learning rates are multiplied by."""
        return 1.0 if self.plateau is None else self.plateau.learning_rate_factor

    @property
    def stopped(self) -> bool:
        """Whether training has ended."""
        return self.stopping is not None and self.stopping.stopped

    def observe(
        self, spec: SessionSpec, values: Mapping[str, float], step: int, drop: Callable[[float], float]
    ) -> MetricMonitors:
        """Returns the state after a report; see `ReduceOnPlateauSpec.observe` for ``drop``."""
        plateau, stopping = self.plateau, self.stopping
        on_plateau, early = spec.reduce_on_plateau, spec.early_stopping
        if on_plateau is not None and plateau is not None and on_plateau.monitor in values:
            plateau = on_plateau.observe(plateau, values[on_plateau.monitor], step, drop)
        if early is not None and stopping is not None and early.monitor in values:
            stopping = early.observe(stopping, values[early.monitor], step)
        return MetricMonitors(plateau, stopping, self.best)

    def check_running(self, spec: SessionSpec) -> None:
        """Rejects a change if training has ended.

        Raises:
            DomainError: TRAINING_STOPPED.
        """
        if self.stopping is None or spec.early_stopping is None or not self.stopping.stopped:
            return
        monitor = spec.early_stopping.monitor
        raise DomainError(
            Reason.TRAINING_STOPPED,
            f"training has ended, for {monitor} was not better than at step {self.stopping.best_step}",
            metadata={"monitor": monitor, "best_step": self.stopping.best_step},
        )


def keeps_best(spec: SessionSpec) -> bool:
    """Whether a session keeps a copy of its best parameters."""
    return spec.early_stopping is not None and spec.early_stopping.restore_best


def count_session_bytes(layout: Layout, spec: SessionSpec) -> int:
    """Bytes that a session takes, known before they are taken: arrays, and a copy of the best parameters."""
    kept = layout.byte_count if keeps_best(spec) else 0
    return resident_bytes(layout, make_programs(spec)) + kept
