"""One step of a session: receive, check, measure, apply, answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import xxhash

from optserve_server.arrays.kernel import Pass
from optserve_server.arrays.norms import norms_by_name
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.programs.step_programs import GRADIENT, REPLY, StepPrograms
from optserve_server.programs.step_scalars import StepScalars
from optserve_server.spec.session_spec import NonFinitePolicy
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.partition import IncrementalPass
from optserve_server.state.read_parameters import Point, Reply, read_parameters
from optserve_server.state.session_change import Change, ChangeKind
from optserve_server.state.session_state import SessionState
from optserve_server.state.staging import Staging, check_complete, no_tensor_error
from optserve_server.state.step_result import StepOptions, StepOutcome, StepResult
from optserve_server.stepping.gradient_statistics import (
    GradientStatistics,
    non_finite_error,
    norms_by_tensor,
)
from optserve_server.stepping.kernel_plan import KernelPlan, RunKernels, Totals
from optserve_server.stepping.lazy_rows import check_lazy_update
from optserve_server.stepping.matrix_step import step_matrices
from optserve_server.stepping.step_record import encode_step_record
from optserve_server.storage.files import Piece

# Python takes a third of a microsecond to read a member of an enumeration from its class.
APPLIED, VALIDATED = StepOutcome.APPLIED, StepOutcome.VALIDATED
AVERAGE = Point.AVERAGE

PIECE = 1 << 20
"""Elements after which a long step reports how far its parameters are: about half a millisecond."""

Scalars = tuple[dict[str, float], Mapping[str, Any] | None]
"""The numbers of a run's update: those of the whole run, and those of each tensor if there are any."""


class Progress(Protocol):
    """Receives the progress of a step, from the thread that takes it."""

    def on_result(self, result: StepResult) -> None:
        """Nothing can reject the step any more; this is its result, and parameters follow."""

    def on_values(self, byte_count: int) -> None:
        """That many bytes of the reply are written; all of them, once the step is counted."""


class Step(Change[SessionState, "Step"]):
    """One step: a change that also checks itself.

    `on_received` takes its fingerprint and, unless that depends on the session's state, its norms while
    the bytes are in cache. `prepare` only reads, so that a rejected step leaves no trace; its record
    in the journal belongs between that and `commit`.

    Args:
        session: the session.
        staging: the gradient, or its place while it arrives.
        options: what the step asks for.

    Attributes:
        staging: the gradient.
        options: what the step asks for.
        is_brief: whether it is a pass or two of a compiled kernel, with nothing to wait for.
        outcome: what was decided; None before `prepare`.
        stored: the result of the same step, if it was answered before.
        has_changes: whether `commit` will change anything that has to be recorded.
        contribution: what its result says of contributions: staleness, count and weight.
    """

    kind = ChangeKind.STEP
    contribution: tuple[int, int, float] = (0, 0, 0.0)

    # What a small step never assigns is not assigned in each of them.
    outcome: StepOutcome | None = None
    stored: StepResult | None = None
    has_changes = False
    _early_plan: KernelPlan | None = None
    _hasher: xxhash.xxh3_128 | None = None
    _passes: list[Pass | IncrementalPass] | None = None
    _received = 0
    _digest = b""
    _statistics: GradientStatistics | None = None

    def __init__(self, session: SessionState, staging: Staging, options: StepOptions) -> None:
        self.staging, self.options = staging, options
        self._session, self._spec = session, session.spec
        if not session.is_small:  # a small session's plan is not found before the step is prepared
            plan = self._early_plan = KernelPlan.get_or_make(session, staging)
            self.is_brief = plan.plain and session.is_brief and session.durability is None

    def on_received(self, byte_count: int) -> None:
        """Takes note that the gradient's first bytes are there, some but not all of them."""
        session, staging = self._session, self.staging
        session.activity.used = time.monotonic()  # an upload may outlast its session's lease
        if not self._received:
            # Of rows, what was sent is not what is staged; of shared memory, an id identifies it.
            if self.options.worker and not staging.sparse and not self.options.gradient_id:
                self._hasher = xxhash.xxh3_128()
            self._plan = self._early_plan = self._early_plan or KernelPlan.get_or_make(session, staging)
            self._passes = self._begin_measurement()
        self._process_received(byte_count)

    def prepare(self, session: SessionState) -> Self:
        """Checks and measures the step and decides its outcome; changes nothing.

        Args:
            session: the session, locked.

        Raises:
            DomainError: what `Session.admit_step` raises, FIELD_REQUIRED (no tensor), SEQUENCE_REUSED,
                MISSING_TENSOR, CONFLICTING_FIELDS (rows that cannot move alone) or
                NON_FINITE_GRADIENT.
        """
        staging, options = self.staging, self.options
        new = session.admit_step(options)
        if not staging.tensors:
            raise no_tensor_error()
        if session.durability is not None and staging.foreign:
            # What is recorded has to be what is applied, whatever others write meanwhile.
            staging = self.staging = session.durability.copy_if_shared(staging)
        if options.worker:
            if self._hasher is not None:
                self._process_received(staging.byte_count)
            if not self._digest:
                context: tuple[object, ...] = (options.loss_scale, options.expected_step, options.overrides)
                if options.member is not None:
                    of_member = options.member
                    context += of_member.example_count, of_member.parameters_step, of_member.completed_shards
                self._digest = staging.digest(context, options.gradient_id, self._hasher)
            if not new:
                self.stored = session.step_deduplication.find_result(
                    options.worker, options.sequence, self._digest
                )
                return self
        plan = self._early_plan
        if plan is None or not plan.is_current_for(session, staging):
            plan = KernelPlan.get_or_make(session, staging)
        self._plan = plan
        if staging.sparse:
            check_lazy_update(session.spec, session.arenas, staging)
        if plan.accumulates:
            check_complete(session.layout, plan.covered, session.spec.frozen_groups)
        self._completes = (
            not plan.accumulates or session.accumulated + 1 == session.spec.gradient.accumulation_steps
        )
        self._scaled = options.loss_scale != 1.0
        self._transform_scalars = session.scalars.compute_transform_scalars(
            session.step, options.loss_scale, options.overrides
        )
        # A step that happens whatever its gradient holds is measured by the pass that applies it.
        self._one_pass = (
            plan.needs_no_measurement
            and self._completes
            and self._passes is None
            and not (options.validate_only or options.per_tensor_norms)
        )
        if self._one_pass:
            self.outcome = APPLIED
        else:
            arrived = None if self._passes is None else self._collect_statistics(self._passes)
            self._statistics = arrived or self._measure_gradient(by_tensor=plan.clips_by_tensor)
            self.outcome = self._decide_outcome(self._statistics.non_finite_count)
        self.has_changes = self.outcome is not VALIDATED
        return self

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return encode_step_record(self.staging, self.options)

    def roll_back(self) -> None:
        """Releases nothing: `prepare` allocates nothing."""

    def commit(self, reply: Reply | None = None, progress: Progress | None = None) -> StepResult:
        """Does what was decided, counts the step and remembers its result.

        Args:
            reply: where the parameters that follow go; None for nowhere.
            progress: receives the result as soon as it is known, and the parameters.
        """
        session, result = self._session, self.stored
        if result is not None:
            fill_reply_and_report(session, result, reply, progress)
        elif self.outcome is APPLIED:
            result = self._apply_gradient(reply, progress)
        else:
            if self.outcome is StepOutcome.ACCUMULATED:
                self._accumulate_gradient()
            result = self._make_result(session.step, 0.0)
            session.complete_step(result, self._digest)
            fill_reply_and_report(session, result, reply, progress)
        if progress is not None:
            progress.on_values(reply.staging.byte_count if reply is not None else 0)
        return result

    def _process_received(self, byte_count: int) -> None:
        if self._hasher is not None:
            self._hasher.update(self.staging.buffer[self._received : byte_count].data)
        self._received = byte_count
        for place, measuring in zip(self._plan.places, self._passes or (), strict=False):
            run = place.run
            bytes_there = byte_count - run.tensors[0].byte_offset
            measuring.compute_until(min(max(0, bytes_there // run.staged.itemsize), run.staged.size))

    def _begin_measurement(self) -> list[Pass | IncrementalPass] | None:
        """Passes that measure the gradient as it arrives; None if that depends on the session's state."""
        plan, session, scale = self._plan, self._session, self.options.loss_scale
        if not plan.measures_early:
            return None
        numbers = session.scalars.compute_transform_scalars(session.step, scale, self.options.overrides)
        of_tensors: Mapping[str, Any] | None = {} if plan.clips_by_tensor else None
        return [
            place.start_pass(
                StepPrograms.trace_measure,
                (scale != 1.0,),
                numbers[place.group],
                of_tensors=of_tensors,
                sent=False,
            )
            for place in plan.places
        ]

    def _collect_statistics(self, passes: list[Pass | IncrementalPass]) -> GradientStatistics | None:
        """The measurement that was taken as the gradient arrived; None if the session has changed since."""
        if self._session.spec is not self._spec:
            return None
        return GradientStatistics(self._spec.gradient, [measuring.finish() for measuring in passes])

    def _measure_gradient(self, *, by_tensor: bool) -> GradientStatistics:
        """Reads the gradient once and changes nothing.

        Args:
            by_tensor: whether sums are wanted for each tensor rather than for each run.
        """
        text = StepPrograms.trace_measure if self._completes else StepPrograms.trace_measure_micro_batch
        of_tensors: Mapping[str, Any] | None = {} if by_tensor else None
        shape, numbers = (self._scaled,), self._transform_scalars
        sums = []
        for place in self._plan.places:
            sums.append(place.run_program(text, shape, numbers[place.group], of_tensors, None, False))
        return GradientStatistics(self._session.spec.gradient, sums)

    def _decide_outcome(self, non_finite_count: int) -> StepOutcome:
        policy = self._session.spec.gradient.non_finite
        if non_finite_count and policy is NonFinitePolicy.REJECT:
            runs = [place.run for place in self._plan.places]
            measured = self._measure_gradient(by_tensor=True)
            raise non_finite_error(self.staging, runs, measured, self._describe_preprocessing())
        if self.options.validate_only:
            return VALIDATED
        if non_finite_count and policy is NonFinitePolicy.SKIP:
            return StepOutcome.SKIPPED
        return APPLIED if self._completes else StepOutcome.ACCUMULATED

    def _describe_preprocessing(self) -> list[str]:
        """What a gradient goes through before the rule gets it, in words."""
        gradient, scale = self._session.spec.gradient, self.options.loss_scale
        stages = [f"division by the loss scale {scale}"] if self._scaled else []
        if gradient.accumulation_steps > 1:
            stages.append("accumulation")
        if self._completes:
            used = [self._transform_scalars[place.group] for place in self._plan.places]
            stages += [f"{n} regularization" for n in ("l1", "l2") if any(of[f"guard_{n}"] for of in used)]
        return stages

    def _accumulate_gradient(self) -> None:
        with self._session.changing:
            for place in self._plan.places:
                place.run_program(
                    StepPrograms.trace_accumulate, (self._scaled,), self._transform_scalars[place.group]
                )
            average = self._session.spec.weight_average
            if average is not None and average.is_updated_between_steps and self._session.step:
                for partition in self._session.arenas.partitions.values():
                    numbers = self._transform_scalars[partition.group]
                    partition.run(
                        partition.programs.average_program, partition.start, partition.stop, numbers
                    )

    def _apply_gradient(self, reply: Reply | None, progress: Progress | None) -> StepResult:
        session, plan = self._session, self._plan
        numbers = session.scalars.compute_step_scalars(
            session.step, self._transform_scalars, self.options.overrides
        )
        own = numbers.scalars
        prepared: list[Scalars] | None = None  # if they depend on the gradient
        if plan.clips_by_norm or plan.tensorwise:
            prepared = [self._make_run_scalars(p, i, own[p.counter]) for i, p in enumerate(plan.places)]
        if plan.groupwise:
            prepared = prepared or [(own[place.counter], None) for place in plan.places]
            self._complete_group_scalars(prepared, numbers)
        writes = reply is not None and plan.can_write_reply(reply)
        result = None
        if self._statistics is not None:
            # What the result reports is read before the update moves what it depends on.
            result = self._make_result(session.step + 1, numbers.learning_rate)
            if reply is not None and writes:
                reply.step = result.step
                if progress is not None:
                    progress.on_result(result)
        with session.changing:
            sums = self._update_runs(own, prepared, reply if writes else None, progress)
            if session.spec.weight_average is not None:
                for partition, start, stop in session.arenas.find_untouched([p.run for p in plan.places]):
                    numbers_of_group = self._transform_scalars[partition.group]
                    partition.run(partition.programs.average_program, start, stop, numbers_of_group)
        announced = result is not None and writes
        if result is None:
            self._statistics = GradientStatistics(session.spec.gradient, sums)
            result = self._make_result(session.step + 1, numbers.learning_rate)
        session.complete_step(result, self._digest, numbers, plan.covered)
        if not announced:
            fill_reply_and_report(None if writes else session, result, reply, progress)
        return result

    def _update_runs(
        self,
        of_counters: Sequence[dict[str, float]],
        of_runs: Sequence[Scalars] | None,
        reply: Reply | None,
        progress: Progress | None,
    ) -> list[Totals]:
        """Updates every run.

        Args:
            of_counters: the numbers of each counter's tensors.
            of_runs: those of each run, if they differ.
            reply: where parameters go that the pass writes.
            progress: receives how far they are.

        Returns:
            What the pass summed up, if it did.
        """
        found: list[Totals] = []
        text, sent = StepPrograms.trace_apply, not self._one_pass
        into, averages, targets = "", False, None
        if reply is not None:
            into, averages = GRADIENT, reply.point is AVERAGE
            if reply.staging is not self.staging:
                into, targets = REPLY, reply.staging.runs
        shape = (self._scaled, into, averages, self._one_pass)
        for i, place in enumerate(self._plan.places):
            scalars, of_tensors = (of_counters[place.counter], None) if of_runs is None else of_runs[i]
            target = None if targets is None else targets[i]
            if reply is None or place.run.staged.size <= PIECE:
                found.append(place.run_program(text, shape, scalars, of_tensors, target, sent))
                if reply is None and isinstance(place.rule, MatrixRule):
                    step_matrices(place.partition, place.run, scalars)
                continue
            updating = place.start_pass(text, shape, scalars, of_tensors, target, sent)
            written = target or place.run
            for stop in range(PIECE, written.staged.size, PIECE):
                updating.compute_until(stop)
                if isinstance(updating, IncrementalPass):
                    updating.wait()
                if progress is not None:
                    progress.on_values(written.tensors[0].byte_offset + stop * written.staged.itemsize)
            found.append(updating.finish())
        return found

    def _make_run_scalars(self, place: RunKernels, position: int, scalars: dict[str, float]) -> Scalars:
        """The numbers of a run's update, with those that depend on its gradient."""
        scalars, plan = dict(scalars), self._plan
        assert self._statistics is not None
        factors = self._statistics.clip_factors(position)
        scalars["guard_clip"] = float(factors[0])
        of_tensors = {"guard_clip": factors} if plan.clips_by_tensor else {}
        rule = place.rule
        if isinstance(rule, TensorwiseRule):
            sums = place.run_program(StepPrograms.trace_measure_tensors, (self._scaled,), scalars, of_tensors)
            of_tensors |= rule.compute_tensor_scalars(norms_by_name(sums))
        return scalars, of_tensors or None

    def _complete_group_scalars(self, prepared: Sequence[Scalars], numbers: StepScalars) -> None:
        """Completes the numbers of each `GroupwiseRule` by the sums over its group."""
        groupwise = [
            (place.group, rule, place, *given)
            for place, given in zip(self._plan.places, prepared, strict=True)
            if isinstance(rule := place.rule, GroupwiseRule)
        ]
        totals: dict[str, Counter[str]] = {}
        for group, _, place, scalars, of_tensors in groupwise:
            sums = place.run_program(StepPrograms.trace_measure_group, (self._scaled,), scalars, of_tensors)
            found = totals.setdefault(group, Counter())
            found.update({name: float(np.sum(of)) for name, of in sums.items()})
        for group, rule, place, scalars, _ in groupwise:
            own, carried = rule.compute_group_scalars(totals[group], scalars)
            scalars.update(own)
            numbers.carried[place.counter] = {**numbers.carried[place.counter], **carried}

    def _penalty_factors(self) -> list[tuple[float, float]]:
        """The factors of L1 and L2 regularization of each run."""
        numbers = [self._transform_scalars[place.group] for place in self._plan.places]
        return [(of["guard_l1"], of["guard_l2"]) for of in numbers]

    def _tensor_norms(self) -> tuple[tuple[str, float], ...]:
        runs = [place.run for place in self._plan.places]
        return norms_by_tensor(self.staging, runs, self._measure_gradient(by_tensor=True))

    def _make_result(self, step: int, learning_rate: float) -> StepResult:
        measurement, session, options = self._statistics, self._session, self.options
        assert measurement is not None
        assert self.outcome is not None
        kept = session.durability
        staleness, contributions, weight = self.contribution
        return StepResult(
            step,
            self.outcome,
            learning_rate,
            measurement.norm,
            measurement.clipped_norm if self._plan.clips else measurement.norm,
            measurement.non_finite_count,
            staleness,
            measurement.penalty(self._penalty_factors()) if self._plan.penalizes else 0.0,
            0 if kept is None else kept.durable_step(step),
            0 if self.outcome is APPLIED else session.accumulated + (self.outcome is StepOutcome.ACCUMULATED),
            self._tensor_norms() if options.per_tensor_norms else (),
            False,
            options.worker,
            options.sequence,
            contributions,
            weight,
        )


def fill_reply_and_report(
    session: SessionState | None, result: StepResult, reply: Reply | None, progress: Progress | None
) -> None:
    """Reports a result, and the parameters beside it.

    Args:
        session: what the parameters are copied from; None if the step itself writes them.
        result: the result.
        reply: where parameters go.
        progress: receives it; None to report none.
    """
    if reply is not None and session is None:
        reply.step = result.step
    elif reply is not None and session is not None:
        read_parameters(session, reply.staging, reply.point)
        reply.step = session.step
    if progress is not None:
        progress.on_result(result)
