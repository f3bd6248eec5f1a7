"""State of a session: specification, arrays, counters, monitors, answered steps, activity."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Collection, Container, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from optserve_server.arrays.backend import Backend
from optserve_server.errors import DomainError, Reason
from optserve_server.programs.step_programs import make_programs
from optserve_server.programs.step_scalars import SessionScalars, StepScalars
from optserve_server.resources.budget import Budget, Charge, Kind
from optserve_server.spec.session_spec import SessionSpec, SparseUpdate
from optserve_server.state.arenas import Arenas
from optserve_server.state.history import OUTCOMES, History
from optserve_server.state.layout import Layout
from optserve_server.state.metric_monitors import MetricMonitors, count_session_bytes
from optserve_server.state.session_activity import SessionActivity
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, Staging, allocate_staging, stage_arrays
from optserve_server.state.step_deduplication import StepDeduplication
from optserve_server.state.step_result import StepOptions, StepOutcome, StepResult

RELOAD_RETRY_AFTER_S = 0.2
"""Seconds after which an evicted session may be in memory again."""

MANY_TENSORS = 256
"""Tensors above which work for each of them takes too long for the event loop."""

MAX_INLINE_ELEMENTS = 1 << 17
"""Elements up to which a step is shorter than handing it to another thread."""


VALIDATED = StepOutcome.VALIDATED
"""Python takes a third of a microsecond to read a member of an enumeration from its class."""


class LiveView(Protocol):
    """Parameters that other processes read; see `shared_memory.live_parameters.LiveParameters`."""

    def begin_change(self) -> None:
        """Marks the parameters as changing."""

    def complete_change(self) -> None:
        """Marks the parameters as consistent again."""


class StepDurability(Protocol):
    """Durability of a session; see `sessions.session_durability.SessionDurability`."""

    def copy_if_shared(self, staging: Staging) -> Staging:
        """A copy of a gradient that others may write to; the gradient itself if no others may."""

    def durable_step(self, step: int) -> int:
        """The step that would be recovered if the server were lost at ``step``."""


class _Changing(contextlib.AbstractContextManager[None]):
    """A change of parameters or state; marks the session as damaged if the change fails half-way.

    Not a generator: every small step passes here.
    """

    def __init__(self, state: SessionState) -> None:
        # The session holds this, and its memory is to go with its last user, not with a collection.
        self._state: SessionState = weakref.proxy(state)

    def __enter__(self) -> None:
        if self._state.live is not None:
            self._state.live.begin_change()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._state.damaged = True
        elif self._state.live is not None:
            self._state.live.complete_change()


class SessionState:
    """State of one session: what steps, spec updates, reports, snapshots and pulls work on.

    Args:
        session_id: the last part of the session's resource name.
        spec: the specification.
        layout: the tensors.
        backend: where the arrays are.
        pending: names of the tensors whose values are still to be uploaded.
        budget: what the memory counts against.

    Attributes:
        arenas: parameters and optimizer state.
        scalars: scalars of the steps.
        monitors: state of reduce_on_plateau and early_stopping.
        step: optimizer steps taken.
        accumulated: gradients accumulated towards the next step.
        skipped: steps skipped because of a non-finite gradient.
        step_deduplication: answered steps of each worker.
        activity: watchers, outcomes and time of last use.
        history: its steps and the metrics that were reported.
        changed_at: Unix time in seconds of the change that is being made, or was made last.
        is_small: whether a step is short enough for the thread that asks for it.
        is_brief: whether its kernels alone are, if nothing has to be copied.
        changing: a context that marks the session as damaged if a change inside it fails.
        closed: whether it was deleted or evicted.
        away: whether it was evicted, and is reloaded on its next use.
        damaged: whether a change failed half-way; such a session answers no more.
        durability: its durability; None if it is held in memory alone.
        live: the parameters as other processes of this host read them; None if none does.
        charge: the resident memory that is counted for it.
        resident_bytes: bytes of its arrays.
        waiting: names of the tensors whose values are still to be uploaded.
        idle_plans: plans of unary steps for the next steps like theirs; see `stepping.step_plan`.
        members_only: whether only members of the session may step.
    """

    def __init__(
        self,
        session_id: str,
        spec: SessionSpec,
        layout: Layout,
        backend: Backend,
        pending: Sequence[str],
        budget: Budget,
    ) -> None:
        self.id = session_id
        self.spec, self.layout, self.budget = spec, layout, budget
        self.step = self.accumulated = self.skipped = 0
        self.closed = self.away = self.damaged = False
        self.waiting = set(pending)
        size = sum(layout.arena_sizes.values())
        self.is_small = size <= MAX_INLINE_ELEMENTS and len(layout.entries) <= MANY_TENSORS
        self.is_brief = size <= backend.brief
        self.resident_bytes = count_session_bytes(layout, spec)
        self.charge = Charge(budget, Kind.RESIDENT, self.resident_bytes)
        self.allocate = partial(budget.allocate_array, make=backend.host_buffer)
        self.allocate_resident = partial(self.allocate, kind=Kind.RESIDENT)
        self.arenas = Arenas(layout, make_programs(spec), backend)
        self.scalars = SessionScalars(spec, layout.tensors_by_group)
        self.monitors = MetricMonitors.make_initial(spec, self.arenas)
        self.step_deduplication = StepDeduplication()
        self.activity = SessionActivity()
        self.history = History(budget)
        self.changed_at = time.time()
        self.live: LiveView | None = None
        self.durability: StepDurability | None = None
        self.changing: contextlib.AbstractContextManager[None] = _Changing(self)
        self.idle_plans: dict[object, object] = {}
        self.members_only = False

    def list_member_names(self) -> Container[str]:
        """Names of the workers whose results are stored for as long as they are members."""
        return ()

    def allocate_staging(
        self, tensors: Sequence[str] | None, dtype: np.dtype[Any] | None, *, is_resident: bool = False
    ) -> Staging:
        """A buffer for bytes, in flight or resident; see `optserve_server.state.staging.allocate_staging`."""
        allocate = self.allocate_resident if is_resident else self.allocate
        return allocate_staging(self.layout, tensors, dtype, allocate)

    def stage_arrays(
        self,
        arrays: Sequence[NamedArray],
        sparse: Sequence[NamedRows] = (),
        *,
        is_resident: bool = False,
    ) -> Staging:
        """A buffer that holds a gradient; see `optserve_server.state.staging.stage_arrays`."""
        lazy = self.spec.gradient.sparse is SparseUpdate.LAZY
        allocate = self.allocate_resident if is_resident else self.allocate
        return stage_arrays(self.layout, arrays, sparse, lazy=lazy, allocate=allocate)

    def check_open(self) -> None:
        """Checks that it was neither deleted nor evicted.

        Raises:
            DomainError: SESSION_NOT_FOUND, or STORAGE_UNAVAILABLE with a time to wait if it was
                evicted meanwhile.
        """
        if self.away:
            text = "the session has just left the memory, and comes back when it is asked for again"
            raise DomainError(Reason.STORAGE_UNAVAILABLE, text, retry_after=RELOAD_RETRY_AFTER_S)
        if self.closed:
            raise session_deleted_error(f"sessions/{self.id}", "name")

    def check_ready(self) -> None:
        """Checks that it can take steps.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, or INTERNAL if it is damaged.
        """
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
        """Checks the step that a request expects; ``field`` is the field that states it.

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

    def admit_step(self, options: StepOptions) -> bool:
        """Checks a step as far as that can be done without its gradient.

        Returns:
            Whether it is to be taken; False if it was answered before.

        Raises:
            DomainError: SESSION_NOT_FOUND, PARAMETERS_PENDING, NOT_A_MEMBER, SEQUENCE_GAP,
                SEQUENCE_EXPIRED, TRAINING_STOPPED or STEP_MISMATCH.
        """
        if self.closed or self.damaged or self.waiting:
            self.check_ready()
        if self.members_only and options.member is None:
            raise _not_a_member_error(options.worker)
        if options.worker and not self.step_deduplication.is_next(options.worker, options.sequence):
            return False
        if self.monitors.stopping is not None:
            self.monitors.check_running(self.spec)
        if options.expected_step is not None:
            self.check_step(options.expected_step, "options.expected_step")
        return True

    def restore(
        self,
        spec: SessionSpec,
        scalars: SessionScalars,
        monitors: MetricMonitors,
        counts: tuple[int, int, int],
    ) -> None:
        """Takes the state of a snapshot; besides this, only changes that are committed write it.

        Args:
            spec: the specification.
            scalars: scalars of the steps.
            monitors: state of reduce_on_plateau and early_stopping.
            counts: steps taken, gradients accumulated, steps skipped.
        """
        self.spec, self.scalars, self.monitors = spec, scalars, monitors
        self.scalars.reduction = monitors.learning_rate_factor
        self.step, self.accumulated, self.skipped = counts

    def complete_step(
        self,
        result: StepResult,
        digest: bytes,
        scalars: StepScalars | None = None,
        covered: Collection[str] | None = None,
    ) -> None:
        """Counts a step and stores its result.

        Args:
            result: the result.
            digest: fingerprint of the step's content; unused if it has no worker.
            scalars: the scalars of a step that was applied.
            covered: names of the tensors that had a gradient; None for all that can have one.
        """
        outcome = result.outcome
        if scalars is not None:
            self.scalars.count_step(scalars, covered)
            self.accumulated = 0
            self.step += 1
        elif outcome is StepOutcome.ACCUMULATED:
            self.accumulated += 1
        elif outcome is StepOutcome.SKIPPED:
            self.skipped += 1
        activity = self.activity
        activity.used = time.monotonic()
        activity.outcomes[outcome] += 1
        if outcome is VALIDATED:
            return
        if result.worker:
            self.step_deduplication.remember_result(result.worker, digest, result, self.list_member_names)
        if outcome in OUTCOMES:
            self.history.add_step(result, self.changed_at)
            if not self.is_small:  # a thread takes it, and others may read the history meanwhile
                self.history.pack_steps()
        if activity.watchers:
            activity.publish(result)

    def store_result(self, result: StepResult, digest: bytes) -> None:
        """Stores the result of a worker's step that was no step of the session; arguments as above."""
        self.step_deduplication.remember_result(result.worker, digest, result, self.list_member_names)
        self.activity.used = time.monotonic()
        self.activity.outcomes[result.outcome] += 1
        self.activity.publish(result)


def _not_a_member_error(worker: str) -> DomainError:
    """The error of a step of no member, where the coordination takes none."""
    text = "the session's coordination takes steps of members only; join the session, and state worker_epoch"
    return DomainError(Reason.NOT_A_MEMBER, text, field="options.worker_epoch", metadata={"worker": worker})


def session_deleted_error(name: str, field: str) -> DomainError:
    """The error of a request to a session that was deleted while it was in use."""
    return DomainError(Reason.SESSION_NOT_FOUND, f"{name} was deleted", field=field, metadata={"name": name})
