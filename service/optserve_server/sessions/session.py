"""A training session: parameters and optimizer state, stepped by gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from optserve_server.arrays.backend import Backend
from optserve_server.coordination.coordinator import CoordinatedSession
from optserve_server.coordination.data_progress import resolve_plan_update
from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import UNBOUNDED, Budget
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.sessions.session_lock import SessionLock
from optserve_server.shared_memory.live_parameters import LiveParameters
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.layout import Layout
from optserve_server.state.metrics_report import MetricsReport, prepare_report
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.read_parameters import Point, Values, read_parameters
from optserve_server.state.session_activity import Pushed, Updated
from optserve_server.state.spec_update import prepare_spec_update
from optserve_server.state.staging import Staging
from optserve_server.state.state_transfer import StateTransfer
from optserve_server.state.step_result import StepOptions, StepResult
from optserve_server.stepping.step import Step


class Session(CoordinatedSession):
    """One session: its state, its lock, and its changes. Not thread-safe: callers hold `lock`.

    Args:
        session_id: the last part of its resource name.
        spec: its specification.
        layout: its tensors.
        backend: where its arrays live.
        seed: seed of the initializers, stored to be reported.
        pending: names of the tensors whose values are still to be uploaded.
        budget: what its memory counts against.

    Attributes:
        lock: held around every change and every read of its arrays.
        on_close: called when it is deleted or evicted, by owner.
    """

    live: LiveParameters | None
    durability: SessionDurability[Session] | None

    def __init__(
        self,
        session_id: str,
        spec: SessionSpec,
        layout: Layout,
        backend: Backend,
        seed: int = 0,
        pending: Sequence[str] = (),
        budget: Budget = UNBOUNDED,
    ) -> None:
        super().__init__(session_id, spec, layout, backend, pending, budget)
        self.seed = seed
        self.created = datetime.now(UTC)
        self.lock = SessionLock()
        self.on_close: dict[object, Callable[[], object]] = {}

    @property
    def durable_step(self) -> int:
        """The step that would be recovered if the server were lost now; 0 if none would."""
        return self.durable_step_at(self.step)

    def durable_step_at(self, step: int) -> int:
        """The step that would be recovered if the server were lost at ``step``; 0 if none would."""
        return 0 if self.durability is None else self.durability.durable_step(step)

    @property
    def pending_tensors(self) -> list[str]:
        """Names of the tensors whose values are still to be uploaded."""
        return sorted(self.waiting)

    @property
    def ready(self) -> bool:
        """Whether all parameters have their values."""
        return not self.waiting

    def slot_names(self) -> dict[str, tuple[str, ...]]:
        """The names of each group's optimizer-state arrays."""
        return {p.group: p.programs.rule.slot_names for p in self.arenas.partitions.values()}

    def compile_kernels(self, wire: np.dtype[Any] | None, reply: str) -> None:
        """Makes the kernels of a stream's steps ready; see `Partition.compile_kernels`."""
        for partition in list(self.arenas.partitions.values()):
            partition.compile_kernels(wire, reply)

    def prepare_next_step(self) -> None:
        """Does what the next step would do first, and what the last one's answer need not wait for.

        To be called when an answer is on its way; without a call, the next step does the same.
        """
        if self.is_small and not self.lock.is_held:
            self.history.pack_steps()
            self.scalars.compute_ahead(self.step)

    def take_step(self, staging: Staging, options: StepOptions) -> StepResult:
        """Takes one step, or changes nothing; see `Step.prepare` for its errors."""
        return Step(self, staging, options).prepare(self).commit()

    def read_values(
        self,
        tensors: Sequence[str] | None = None,
        dtype: np.dtype[Any] | None = None,
        point: Point = Point.PARAMETERS,
        into: Staging | None = None,
    ) -> Values:
        """A copy of the parameters' values.

        Args:
            tensors: names in any order; None for all.
            dtype: element type of the copy; None for each tensor's own.
            point: which value.
            into: what `allocate_staging` gave for the same tensors and dtype, to be filled again.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, UNKNOWN_TENSOR,
                DUPLICATE_TENSOR or POINT_UNAVAILABLE.
        """
        self.check_ready()
        return read_parameters(self, into or self.allocate_staging(tensors, dtype), point)

    def assign_parameters(
        self, staging: Staging, *, expected_step: int | None = None, reset_state: bool = False
    ) -> None:
        """Overwrites parameters; see `prepare_assign`."""
        self.prepare_assign(staging, expected_step=expected_step, reset_state=reset_state).commit()

    def prepare_assign(
        self, staging: Staging, *, expected_step: int | None = None, reset_state: bool = False
    ) -> Prepared[None]:
        """Overwrites parameters.

        Args:
            staging: the values.
            expected_step: the step that the session must be at; None for any.
            reset_state: whether the optimizer state of these tensors is initialized again.

        Raises:
            DomainError: SESSION_NOT_FOUND or STEP_MISMATCH.
        """
        self.check_open()
        self.check_step(expected_step, "header.expected_step")
        return Prepared(partial(self._assign_staged, staging, reset_state))

    def _assign_staged(self, staging: Staging, reset_state: bool) -> None:
        with self.changing:
            for run in staging.runs:
                self.arenas.overwrite_parameters(run, reset_state=reset_state, restart_average=self.step == 0)
        self.waiting.difference_update(tensor.entry.name for tensor in staging.tensors)
        self.activity.publish(Pushed(self.step))

    def update_spec(self, spec: SessionSpec, *, expected_step: int | None = None) -> list[StateTransfer]:
        """Replaces the specification between two steps; see `prepare_spec_update`."""
        return self.prepare_spec_update(spec, expected_step=expected_step).commit()

    def prepare_spec_update(
        self, spec: SessionSpec, *, expected_step: int | None = None
    ) -> Prepared[list[StateTransfer]]:
        """Replaces the specification between two steps.

        Returns:
            The transfer of each group's state.

        Raises:
            DomainError: SESSION_NOT_FOUND, STEP_MISMATCH, STEP_INCOMPLETE, or
                CONFLICTING_FIELDS if the groups' members would change.
        """
        self.check_open()
        self.check_step(expected_step, "expected_step")
        if self.coordinator.has_open_round:
            raise DomainError(Reason.STEP_INCOMPLETE, "a round is open; update when it has closed")
        plan = resolve_plan_update(self.spec.data_plan, self.coordinator.progress, spec.data_plan)
        prepared = prepare_spec_update(self, replace(spec, data_plan=plan))
        return Prepared(partial(self._commit_spec_update, prepared), prepared.roll_back)

    def _commit_spec_update(self, prepared: Prepared[list[StateTransfer]]) -> list[StateTransfer]:
        transfers = prepared.commit()
        self.apply_coordination_spec()
        self.activity.publish(Updated())
        return transfers

    def report_metrics(
        self, values: Mapping[str, float], *, expected_step: int | None = None
    ) -> MetricsReport:
        """Takes metrics of the parameters as they are; see `prepare_report`."""
        return self.prepare_report(values, expected_step=expected_step).commit()

    def prepare_report(
        self, values: Mapping[str, float], *, expected_step: int | None = None
    ) -> Prepared[MetricsReport]:
        """Takes metrics of the parameters as they are; see `optserve_server.state.metrics_report`.

        Args:
            values: the metrics by name.
            expected_step: the step that the session must be at; None for any.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, TRAINING_STOPPED,
                STEP_MISMATCH, or LIMIT_EXCEEDED if it cannot store as many metrics.
        """
        self.check_ready()
        self.monitors.check_running(self.spec)
        self.check_step(expected_step, "expected_step")
        return Prepared(partial(self._commit_and_publish_report, prepare_report(self, values)))

    def _commit_and_publish_report(self, commit: Callable[[], MetricsReport]) -> MetricsReport:
        report = commit()
        self.activity.publish(report)
        return report

    def close(self, *, away: bool = False) -> None:
        """Says that it is deleted, or away; later calls on it are rejected."""
        self.closed, self.away = True, away
        self.idle_plans.clear()  # they hold the session, which is to go at once
        self.coordinator.reconsider_all()
        self.activity.publish_deleted()
        for on_close in list(self.on_close.values()):
            on_close()
