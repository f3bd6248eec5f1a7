"""One step of a session: measure, decide, apply, commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from optserve_server.arrays.backend import Segments
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.sessions.matrices import step_matrices
from optserve_server.sessions.measurement import Measurement, measure, norms_by_tensor, refuse_non_finite
from optserve_server.sessions.numbers import StepNumbers
from optserve_server.sessions.result import StepOptions, StepOutcome, StepResult
from optserve_server.sessions.spec import ClipByTensorNorm, NonFinitePolicy
from optserve_server.sessions.staging import Run, Staging

if TYPE_CHECKING:
    from optserve_server.sessions.session import Session


class Step:
    """A gradient on its way into a session that has accepted it.

    `prepare` only reads, so a refusal leaves no trace; what must be known to be kept before
    anything moves, such as a record in a journal, belongs between it and `commit`.

    Attributes:
        outcome: what was decided.
    """

    def __init__(self, session: Session, staging: Staging, options: StepOptions) -> None:
        self._session = session
        self._staging = staging
        self._options = options
        self._gradient = session.spec.gradient
        self._runs = staging.runs
        self._completes = session.accumulated + 1 == self._gradient.accumulation_steps
        self._guards = session.numbers.of_guards(session.step)
        self._scaled = options.loss_scale != 1.0
        if self._scaled:
            self._guards["guard_loss_scale"] = options.loss_scale
        self.outcome = StepOutcome.VALIDATED
        self._measurement = Measurement(self._gradient)

    def prepare(self) -> Self:
        """Measures the gradient and decides what becomes of it; changes nothing.

        Raises:
            DomainError: NON_FINITE_GRADIENT under the policy REJECT.
        """
        self._measurement = self._measure(by_tensor=isinstance(self._gradient.clip, ClipByTensorNorm))
        self.outcome = self._decided(self._measurement.non_finite_count)
        return self

    @property
    def changes(self) -> bool:
        """Whether `commit` will change anything that must not be lost."""
        return self.outcome is not StepOutcome.VALIDATED

    def commit(self) -> StepResult:
        """Does what was decided, and only then counts it."""
        match self.outcome:
            case StepOutcome.APPLIED:
                return self._applied()
            case StepOutcome.ACCUMULATED:
                self._gather()
            case StepOutcome.SKIPPED:
                self._session.skipped += 1
        return self._result(self.outcome)

    def _decided(self, non_finite_count: int) -> StepOutcome:
        policy = self._gradient.non_finite
        if non_finite_count and policy is NonFinitePolicy.REJECT:
            raise refuse_non_finite(self._staging, non_finite_count)
        if self._options.validate_only:
            return StepOutcome.VALIDATED
        if non_finite_count and policy is NonFinitePolicy.SKIP:
            return StepOutcome.SKIPPED
        return StepOutcome.APPLIED if self._completes else StepOutcome.ACCUMULATED

    def _applied(self) -> StepResult:
        numbers = self._session.numbers.of_step(self._session.step)
        # What the result reports is read before the update moves what it depends on.
        norms = self._tensor_norms()
        self._update(self._measurement, numbers)
        return self._result(StepOutcome.APPLIED, numbers.learning_rate, norms)

    def _measure(self, *, by_tensor: bool) -> Measurement:
        return measure(
            self._session.arenas, self._gradient, self._runs, self._guards,
            micro_batch=not self._completes, by_tensor=by_tensor,
        )  # fmt: skip

    def _gather(self) -> None:
        with self._session.changing():
            for run in self._runs:
                partition = self._session.arenas.partition(run)
                partition.take(partition.programs.accumulate(self._scaled), run, self._guards)
        self._session.accumulated += 1

    def _update(self, measurement: Measurement, numbers: StepNumbers) -> None:
        session = self._session
        prepared = [self._prepare(run, measurement, i, numbers) for i, run in enumerate(self._runs)]
        self._settle(prepared, numbers)
        with session.changing():
            for run, (scalars, segments) in zip(self._runs, prepared, strict=True):
                self._update_run(run, scalars, segments)
            if session.spec.weight_average is not None:
                for partition, start, stop in session.arenas.untouched(self._runs):
                    partition.run(partition.programs.average, start, stop, self._guards)
        session.numbers.commit(numbers)
        session.accumulated = 0
        session.step += 1

    def _update_run(self, run: Run, scalars: dict[str, float], segments: Segments | None) -> None:
        partition = self._session.arenas.partition(run)
        partition.take(partition.programs.apply(self._scaled), run, scalars, segments)
        if isinstance(partition.programs.rule, MatrixRule):
            step_matrices(partition, run, scalars)

    def _prepare(
        self, run: Run, measurement: Measurement, position: int, numbers: StepNumbers
    ) -> tuple[dict[str, float], Segments | None]:
        """The numbers of a run's update: those of the whole run, and those of each tensor."""
        partition = self._session.arenas.partition(run)
        factors = measurement.factors(position)
        scalars = {**numbers.scalars[partition.group], **self._guards, "guard_clip": float(factors[0])}
        of_tensors = {"guard_clip": factors} if isinstance(self._gradient.clip, ClipByTensorNorm) else {}
        rule = partition.programs.rule
        if isinstance(rule, TensorwiseRule):
            program = partition.programs.measure_tensors(self._scaled)
            cut = Segments(run.ends, of_tensors)
            sums = partition.take(program, run, scalars, cut)
            of_tensors |= rule.numbers_of_tensors({name: np.sqrt(sum_) for name, sum_ in sums.items()})
        return scalars, Segments(run.ends, of_tensors) if of_tensors else None

    def _settle(
        self, prepared: Sequence[tuple[dict[str, float], Segments | None]], numbers: StepNumbers
    ) -> None:
        """Completes the numbers of each `GroupwiseRule` by the sums over its group."""
        totals: dict[str, Counter[str]] = {}
        for run, (scalars, segments) in zip(self._runs, prepared, strict=True):
            partition = self._session.arenas.partition(run)
            if isinstance(partition.programs.rule, GroupwiseRule):
                program = partition.programs.measure_group(self._scaled)
                sums = partition.take(program, run, scalars, segments)
                found = totals.setdefault(partition.group, Counter())
                found.update({name: float(of.sum()) for name, of in sums.items()})
        for run, (scalars, _) in zip(self._runs, prepared, strict=True):
            partition = self._session.arenas.partition(run)
            if isinstance(partition.programs.rule, GroupwiseRule):
                own, carried = partition.programs.rule.settled(totals[partition.group], scalars)
                scalars.update(own)
                numbers.carried[partition.group].update(carried)

    def _tensor_norms(self) -> tuple[tuple[str, float], ...]:
        if not self._options.per_tensor_norms:
            return ()
        return norms_by_tensor(self._runs, self._measure(by_tensor=True))

    def _result(
        self,
        outcome: StepOutcome,
        learning_rate: float = 0.0,
        tensor_norms: tuple[tuple[str, float], ...] | None = None,
    ) -> StepResult:
        measurement = self._measurement
        return StepResult(
            step=self._session.step,
            outcome=outcome,
            learning_rate=learning_rate,
            gradient_norm=measurement.norm,
            clipped_gradient_norm=measurement.clipped_norm,
            non_finite_count=measurement.non_finite_count,
            regularization_penalty=measurement.penalty,
            durable_step=self._session.durable_step,
            accumulated=self._session.accumulated,
            tensor_norms=self._tensor_norms() if tensor_norms is None else tensor_norms,
        )
