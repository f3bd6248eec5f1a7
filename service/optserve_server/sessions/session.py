"""A training session: parameters and optimizer state, stepped by gradients."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from optserve_server.arrays.backend import Backend
from optserve_server.coordination.coordinator import Coordinator
from optserve_server.errors import DomainError, Reason
from optserve_server.programs.step_programs import programs_of
from optserve_server.programs.step_scalars import SessionScalars, StepScalars
from optserve_server.resources.budget import UNBOUNDED, Budget, Charge, Kind
from optserve_server.sessions.activity import Activity, Pushed, Updated
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.shared_memory.live_parameters import LiveParameters
from optserve_server.spec.session_spec import SessionSpec, SparseUpdate
from optserve_server.state.arena import Arenas
from optserve_server.state.layout import Layout
from optserve_server.state.metrics_report import MetricsReport, prepare_report
from optserve_server.state.monitors import Monitors, session_bytes
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.reading import Point, Pull, Values, check_point, read
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.spec_update import prepare_spec_update
from optserve_server.state.staging import (
    NamedArray,
    StagedTensor,
    Staging,
    laid_out,
    stage,
    stage_arrays,
)
from optserve_server.state.state_transfer import StateTransfer
from optserve_server.stepping.sparse_staging import NamedIndices, SparseStaging
from optserve_server.stepping.step import Step
from optserve_server.stepping.step_deduplication import StepDeduplication
from optserve_server.stepping.step_result import StepOptions, StepResult

RELOAD_RETRY_AFTER_S = 0.2
"""Seconds after which a session that has left the memory may be there again."""

MANY_TENSORS = 256
"""Tensors above which work for each of them in turn is too long for the event loop."""

MAX_INLINE_ELEMENTS = 1 << 17
"""Elements up to which a step is shorter than handing it to another thread."""


class _Changing(contextlib.AbstractContextManager[None]):
    """While a session's parameters or state change. Not a generator: every small step passes here.

    Args:
        session: the session. It is marked as damaged only when something has failed: requests
            are checked before their turn, while another step may be running in a thread.
    """

    def __init__(self, session: Session) -> None:
        # The session holds this, and its memory is to go with its last user, not with a collection.
        self._session: Session = weakref.proxy(session)

    def __enter__(self) -> None:
        if self._session.live is not None:
            self._session.live.begin()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._session.damaged = True
        elif self._session.live is not None:
            self._session.live.complete()


class Session:
    """One session. Not thread-safe: callers hold `lock` around every method.

    Args:
        session_id: the last part of its resource name.
        spec: what it was asked to be.
        layout: its tensors.
        backend: where its arrays live.
        seed: seed of the initializers, kept to be reported.
        pending: names of the tensors whose values are still to be uploaded.
        budget: what its memory counts against; None for no limit.

    Attributes:
        step: optimizer steps taken.
        accumulated: gradients accumulated towards the next step.
        skipped: steps skipped because of a non-finite gradient.
        is_small: whether a step is short enough for the thread that asks for it.
        is_brief: whether its kernels alone are, where nothing has to be copied.
        changing: a context that closes the session to further use if what is done inside ends half-way.
        closed: whether it was deleted, or has left the memory.
        away: whether it has left the memory, and comes back on its next use.
        damaged: whether an update began and did not end; such a session answers no more.
        monitors: what has become of reduce_on_plateau and early_stopping.
        budget: what its memory counts against.
        live: where other processes of this host read the parameters, once some do.
        on_close: what is called when it is deleted, by whom it concerns.
        charge: what it has taken of the budget.
        waiting: names of the tensors whose values are still to be uploaded.
        idle_plans: plans of unary steps for the next steps like theirs; see `stepping.step_plan`.
        durability: how it is kept on the disk; None where it is held in memory alone.
        coordinator: its members, and how their steps are combined.
    """

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
        self.id = session_id
        self.spec = spec
        self.layout = layout
        self.seed = seed
        self.created = datetime.now(UTC)
        self.step = 0
        self.accumulated = 0
        self.skipped = 0
        size = sum(layout.arena_sizes.values())
        self.is_small = size <= MAX_INLINE_ELEMENTS and len(layout.entries) <= MANY_TENSORS
        self.is_brief = size <= backend.brief
        self.closed = self.away = False
        self.damaged = False
        self.changing: contextlib.AbstractContextManager[None] = _Changing(self)
        self.activity = Activity()
        self.lock = asyncio.Lock()
        programs = programs_of(spec)
        self.resident_bytes = session_bytes(layout, spec)
        self.budget = budget
        self.live: LiveParameters | None = None
        self.on_close: dict[object, Callable[[], object]] = {}
        self._allocate = partial(budget.array, make=backend.host_buffer)
        self._allocate_resident = partial(self._allocate, kind=Kind.RESIDENT)
        self.charge = Charge(budget, Kind.RESIDENT, self.resident_bytes)
        self.arenas = Arenas(layout, programs, backend)
        self.scalars = SessionScalars(spec, layout.members)
        self.monitors = Monitors.begin(spec, self.arenas)
        self.step_deduplication = StepDeduplication()
        self.durability: SessionDurability[Session] | None = None
        self.coordinator = Coordinator(spec.coordination)
        self.waiting = set(pending)
        self.idle_plans: dict[object, object] = {}

    @property
    def durable_step(self) -> int:
        """The step that would come back if the server were lost now; 0 where none would."""
        return self.durable_at(self.step)

    def durable_at(self, step: int) -> int:
        """The step that would come back if the server were lost at ``step``; 0 where none would."""
        return 0 if self.durability is None else self.durability.durable_step(step)

    @property
    def has_open_round(self) -> bool:
        """Whether contributions have been added to a round that is not closed."""
        return self.coordinator.round is not None and self.coordinator.round.count > 0

    @property
    def pending(self) -> list[str]:
        """Names of the tensors whose values are still to be uploaded."""
        return sorted(self.waiting)

    @property
    def ready(self) -> bool:
        """Whether all parameters have their values."""
        return not self.waiting

    def slot_names(self) -> dict[str, tuple[str, ...]]:
        """The names of each group's optimizer-state arrays."""
        return {p.group: p.programs.rule.slot_names for p in self.arenas.partitions.values()}

    def warm(self, wire: np.dtype[Any] | None, reply: str) -> None:
        """Makes the kernels of a stream's steps ready; see `Partition.warm`."""
        for partition in list(self.arenas.partitions.values()):
            partition.warm(wire, reply)

    def staging(self, tensors: Sequence[StagedTensor]) -> Staging:
        """A buffer for tensors that were laid out."""
        return Staging(tensors, allocate=self._allocate)

    def has_room(self, byte_count: int) -> bool:
        """Whether so many more resident bytes are within the limits."""
        try:
            self.budget.check(Kind.RESIDENT, byte_count)
        except DomainError:
            return False
        return True

    def stage(
        self, tensors: Sequence[str] | None, dtype: np.dtype[Any] | None, *, is_resident: bool = False
    ) -> Staging:
        """A buffer for bytes, in flight or resident; see `optserve_server.state.staging.stage`."""
        allocate = self._allocate_resident if is_resident else self._allocate
        return stage(self.layout, tensors, dtype, allocate)

    def stage_arrays(
        self,
        arrays: Sequence[NamedArray],
        sparse: Sequence[NamedRows] = (),
        *,
        is_resident: bool = False,
    ) -> Staging:
        """A buffer that holds a gradient; see `optserve_server.state.staging.stage_arrays`."""
        lazy = self.spec.gradient.sparse is SparseUpdate.LAZY
        allocate = self._allocate_resident if is_resident else self._allocate
        return stage_arrays(self.layout, arrays, sparse, lazy=lazy, allocate=allocate)

    def stage_rows(
        self, tensors: Sequence[str], rows: Sequence[NamedIndices], dtype: np.dtype[Any] | None
    ) -> SparseStaging:
        """A buffer for streamed bytes of tensors and rows; see `optserve_server.stepping.sparse_staging`."""
        return SparseStaging(self.layout, tensors, rows, dtype, self._allocate)

    def staged(self, arrived: Staging | SparseStaging) -> Staging:
        """What was streamed, ready for a step: rows are summed and put into their places."""
        if isinstance(arrived, Staging):
            return arrived
        return arrived.staging(lazy=self.spec.gradient.sparse is SparseUpdate.LAZY)

    def apply(self, staging: Staging, options: StepOptions) -> StepResult:
        """Takes one step, or changes nothing; see `Step.prepare` for its errors."""
        return Step(self, staging, options).prepare(self).commit()

    def admit(self, options: StepOptions) -> bool:
        """Checks a step as far as that can be done without its gradient.

        Returns:
            Whether it is to be taken; False if it was answered before.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, NOT_A_MEMBER, SEQUENCE_GAP,
                SEQUENCE_EXPIRED, TRAINING_STOPPED or STEP_MISMATCH.
        """
        if self.closed or self.damaged or self.waiting:
            self._check_usable()
        if options.member is None and self.coordinator.mode.members_only:
            raise members_only(options.worker)
        if options.worker and not self.step_deduplication.is_next(options.worker, options.sequence):
            return False
        if self.monitors.stopping is not None:
            self.monitors.check_running(self.spec)
        if options.expected_step is not None:
            self.check_step(options.expected_step, "options.expected_step")
        return True

    def count_step(self, numbers: StepScalars, covered: Collection[str] | None) -> None:
        """Counts a step that was applied; arguments as those of `SessionScalars.count`."""
        self.scalars.count(numbers, covered)
        self.accumulated = 0
        self.step += 1

    def count_accumulated(self) -> None:
        """Counts a gradient that waits for the rest of its step."""
        self.accumulated += 1

    def count_skipped(self) -> None:
        """Counts a step that was skipped."""
        self.skipped += 1

    def check_pull(self, pull: Pull) -> tuple[StagedTensor, ...]:
        """Refuses values that could not be sent, before anything depends on it.

        Returns:
            How they will lie in a buffer.

        Raises:
            DomainError: what `values` raises.
        """
        self._check_usable()
        check_point(self, pull.point)
        return laid_out(self.layout, pull.tensors, pull.dtype)

    def values(
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
            into: what `stage` gave for the same tensors and dtype, to be filled again.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, UNKNOWN_TENSOR,
                DUPLICATE_TENSOR or POINT_UNAVAILABLE.
        """
        self._check_usable()
        return read(self, into or self.stage(tensors, dtype), point)

    def assign(
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
            reset_state: whether the optimizer state of these tensors starts anew.

        Raises:
            DomainError: SESSION_NOT_FOUND or STEP_MISMATCH.
        """
        self.check_open()
        self.check_step(expected_step, "header.expected_step")
        return Prepared(partial(self._assign, staging, reset_state))

    def _assign(self, staging: Staging, reset_state: bool) -> None:
        with self.changing:
            for run in staging.runs:
                self.arenas.write(run, reset_state=reset_state, restart_average=self.step == 0)
        self.waiting.difference_update(tensor.entry.name for tensor in staging.tensors)
        self.activity.publish(Pushed(self.step))

    def update(self, spec: SessionSpec, *, expected_step: int | None = None) -> list[StateTransfer]:
        """Replaces the specification between two steps; see `prepare_update`."""
        return self.prepare_update(spec, expected_step=expected_step).commit()

    def prepare_update(
        self, spec: SessionSpec, *, expected_step: int | None = None
    ) -> Prepared[list[StateTransfer]]:
        """Replaces the specification between two steps.

        Returns:
            What becomes of each group's state.

        Raises:
            DomainError: SESSION_NOT_FOUND, STEP_MISMATCH, STEP_INCOMPLETE, or
                CONFLICTING_FIELDS where the groups' members would change.
        """
        self.check_open()
        self.check_step(expected_step, "expected_step")
        prepared = prepare_spec_update(self, spec)
        return Prepared(partial(self._update, prepared), prepared.give_up)

    def _update(self, prepared: Prepared[list[StateTransfer]]) -> list[StateTransfer]:
        transfers = prepared.commit()
        self.coordinator.follow(self.spec.coordination)
        self.activity.publish(Updated())
        return transfers

    def report(self, values: Mapping[str, float], *, expected_step: int | None = None) -> MetricsReport:
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
                STEP_MISMATCH, or FIELD_REQUIRED where none of the metrics is watched.
        """
        self._check_usable()
        self.monitors.check_running(self.spec)
        self.check_step(expected_step, "expected_step")
        return Prepared(partial(self._report, prepare_report(self, values)))

    def _report(self, commit: Callable[[], MetricsReport]) -> MetricsReport:
        report = commit()
        self.activity.publish(report)
        return report

    def close(self, *, away: bool = False) -> None:
        """Says that it is deleted, or away; later calls on it are rejected."""
        self.closed, self.away = True, away
        self.idle_plans.clear()  # they hold the session, which is to go at once
        self.coordinator.decide_again()
        self.activity.publish_deleted()
        for on_close in list(self.on_close.values()):
            on_close()

    def check_open(self) -> None:
        """Refuses what comes too late.

        Raises:
            DomainError: SESSION_NOT_FOUND, or STORAGE_UNAVAILABLE with a time to wait where it
                has left the memory meanwhile.
        """
        if self.away:
            text = "the session has just left the memory, and comes back when it is asked for again"
            raise DomainError(Reason.STORAGE_UNAVAILABLE, text, retry_after=RELOAD_RETRY_AFTER_S)
        if self.closed:
            raise session_deleted(f"sessions/{self.id}", "name")

    def check_ready(self) -> None:
        """Refuses what needs a session whose parameters are all there.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, or INTERNAL where it is damaged.
        """
        self._check_usable()

    def _check_usable(self) -> None:
        self.check_open()
        if self.damaged:
            raise DomainError(Reason.INTERNAL, "a step of this session failed half-way")
        if self.waiting:
            missing = min(self.waiting)
            raise DomainError(
                Reason.PARAMETERS_PENDING,
                f"{len(self.waiting)} tensors are still to be uploaded, {missing!r} among them",
                metadata={"tensor": missing, "count": len(self.waiting)},
            )

    def check_step(self, expected: int | None, field: str) -> None:
        """Refuses a request that expects another step; ``field`` is where it says so.

        Raises:
            DomainError: STEP_MISMATCH.
        """
        if expected is not None and expected != self.step:
            raise DomainError(
                Reason.STEP_MISMATCH,
                f"the session is at step {self.step}, not {expected}",
                field=field,
                metadata={"expected": expected, "current": self.step},
            )


def members_only(worker: str) -> DomainError:
    """The error of a step of no member, where the coordination takes none."""
    text = "the session's coordination takes steps of members only; join the session, and state worker_epoch"
    return DomainError(Reason.NOT_A_MEMBER, text, field="options.worker_epoch", metadata={"worker": worker})


def session_deleted(name: str, field: str) -> DomainError:
    """The error of a request to a session that was deleted while it was in use."""
    return DomainError(Reason.SESSION_NOT_FOUND, f"{name} was deleted", field=field, metadata={"name": name})
