"""One step of a session: measure, decide, apply, commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from optserve_server.arrays.backend import Sums
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.sessions.guards import GRADIENT, REPLY, StepPrograms
from optserve_server.sessions.matrices import step_matrices
from optserve_server.sessions.measurement import (
    Measurement,
    measure,
    measures_by_tensor,
    norms_by_tensor,
    refuse_non_finite,
)
from optserve_server.sessions.numbers import StepNumbers
from optserve_server.sessions.partition import Piecewise
from optserve_server.sessions.plan import Numbers, NumbersOfTensors, Place, Plan
from optserve_server.sessions.reading import Point, Reply, read
from optserve_server.sessions.result import StepOptions, StepOutcome, StepResult
from optserve_server.sessions.spec import ClipByGlobalNorm, ClipByTensorNorm, NonFinitePolicy
from optserve_server.sessions.staging import Staging

if TYPE_CHECKING:
    from optserve_server.sessions.session import Session

PIECE = 1 << 20
"""Elements after which a long step tells how far its values are: about half a millisecond."""


class Progress(Protocol):
    """Who wants to know of a step while it is taken. Called from the thread that takes it."""

    def begun(self, result: StepResult) -> None:
        """Nothing can refuse the step any more; this is its result, and values follow."""

    def reached(self, byte_count: int) -> None:
        """That many bytes of the reply are written; all of them, once the step is counted."""


class Silent:
    """Nobody wants to know."""

    def begun(self, result: StepResult) -> None:
        """Told of a result."""

    def reached(self, byte_count: int) -> None:
        """Told of values."""


SILENT = Silent()


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
        self._plan = Plan.of(session.arenas, staging)
        self._places = self._plan.places
        self._completes = session.accumulated + 1 == self._gradient.accumulation_steps
        self._scaled, self._guards = session.numbers.of_gradient(session.step, options.loss_scale)
        self.outcome = StepOutcome.VALIDATED
        self._one_pass = False
        self._measurement = Measurement(self._gradient)

    def prepare(self, measurement: Measurement | None = None) -> Self:
        """Measures the gradient and decides what becomes of it; changes nothing.

        Args:
            measurement: of this gradient, where it was taken while it came.

        Raises:
            DomainError: NON_FINITE_GRADIENT under the policy REJECT.
        """
        self._one_pass = measurement is None and self._needs_no_measurement()
        if self._one_pass:
            self.outcome = StepOutcome.APPLIED
            return self
        self._measurement = measurement or self._measure(by_tensor=measures_by_tensor(self._gradient))
        self.outcome = self._decided(self._measurement.non_finite_count)
        return self

    @property
    def changes(self) -> bool:
        """Whether `commit` will change anything that must not be lost."""
        return self.outcome is not StepOutcome.VALIDATED

    def commit(self, reply: Reply | None, progress: Progress) -> StepResult:
        """Does what was decided, and only then counts it.

        Args:
            reply: where the values that follow the step go; None for nowhere.
            progress: is told of the result before the first value is there; of the last bytes
                the caller tells, when the step is remembered.
        """
        if self.outcome is StepOutcome.APPLIED:
            return self._apply(reply, progress)
        if self.outcome is StepOutcome.ACCUMULATED:
            self._gather()
        elif self.outcome is StepOutcome.SKIPPED:
            self._session.skipped += 1
        result = self._result(self._session.step)
        answer_with(self._session, result, reply, progress)
        return result

    def _decided(self, non_finite_count: int) -> StepOutcome:
        policy = self._gradient.non_finite
        if non_finite_count and policy is NonFinitePolicy.REJECT:
            raise refuse_non_finite(self._staging, non_finite_count)
        if self._options.validate_only:
            return StepOutcome.VALIDATED
        if non_finite_count and policy is NonFinitePolicy.SKIP:
            return StepOutcome.SKIPPED
        return StepOutcome.APPLIED if self._completes else StepOutcome.ACCUMULATED

    def _needs_no_measurement(self) -> bool:
        """Whether the step happens whatever the gradient holds, and no number of it depends on that."""
        gradient, options = self._gradient, self._options
        return (
            gradient.non_finite is NonFinitePolicy.ALLOW
            and not isinstance(gradient.clip, ClipByGlobalNorm | ClipByTensorNorm)
            and self._completes
            and self._plan.plain
            and not (options.validate_only or options.per_tensor_norms)
        )

    def _measure(self, *, by_tensor: bool) -> Measurement:
        text = StepPrograms.measure if self._completes else StepPrograms.measure_micro_batch
        return measure(self._gradient, self._places, text, self._scaled, self._guards, by_tensor=by_tensor)

    def _gather(self) -> None:
        with self._session.changing():
            for place in self._places:
                place.call(StepPrograms.accumulate, self._scaled, scalars=self._guards)
            average = self._session.spec.weight_average
            if average is not None and average.moves_between_steps and self._session.step:
                for partition in self._session.arenas.partitions.values():
                    partition.run(partition.programs.average, partition.start, partition.stop, self._guards)
        self._session.accumulated += 1

    def _apply(self, reply: Reply | None, progress: Progress) -> StepResult:
        session = self._session
        numbers = session.numbers.of_step(session.step, self._guards)
        prepared = [self._prepare(place, i, numbers) for i, place in enumerate(self._places)]
        if self._plan.groupwise:
            self._settle(prepared, numbers)
        writes = reply is not None and self._plan.writes(reply)
        if not self._one_pass:
            # What the result reports is read before the update moves what it depends on.
            result = self._result(session.step + 1, numbers.learning_rate)
            if writes:
                answer_with(None, result, reply, progress)
        with session.changing():
            sums = self._update(prepared, reply if writes else None, progress)
            if session.spec.weight_average is not None:
                for partition, start, stop in session.arenas.untouched(self._staging.runs):
                    partition.run(partition.programs.average, start, stop, self._guards)
        if self._one_pass:
            self._measurement = Measurement(self._gradient, sums)
            result = self._result(session.step + 1, numbers.learning_rate)
        session.numbers.commit(numbers)
        session.accumulated = 0
        session.step += 1
        if self._one_pass or not writes:
            answer_with(None if writes else session, result, reply, progress)
        return result

    def _update(
        self,
        prepared: Sequence[tuple[dict[str, float], NumbersOfTensors | None]],
        reply: Reply | None,
        progress: Progress,
    ) -> list[Sums]:
        """Updates every run; returns what its pass summed up, if it did."""
        found = []
        for i, (place, (scalars, of_tensors)) in enumerate(zip(self._places, prepared, strict=True)):
            if reply is not None:
                found.append(self._update_and_write(place, i, scalars, of_tensors, reply, progress))
                continue
            shape = (self._scaled, "", False, self._one_pass)
            how: dict[str, Any] = {"scalars": scalars, "of_tensors": of_tensors, "sent": not self._one_pass}
            found.append(place.call(StepPrograms.apply, *shape, **how))
            if isinstance(place.rule, MatrixRule):
                step_matrices(place.partition, place.run, scalars)
        return found

    def _update_and_write(
        self,
        place: Place,
        position: int,
        scalars: Numbers,
        of_tensors: NumbersOfTensors | None,
        reply: Reply,
        progress: Progress,
    ) -> Sums:
        here = reply.staging is self._staging
        shape = (self._scaled, GRADIENT if here else REPLY, reply.point is Point.AVERAGE, self._one_pass)
        target = reply.staging.runs[position]
        how: dict[str, Any] = {"scalars": scalars, "of_tensors": of_tensors, "sent": not self._one_pass}
        if not here:
            how["reply"] = target
        size = target.staged.size
        if size <= PIECE:
            return place.call(StepPrograms.apply, *shape, **how)
        updating = place.begin(StepPrograms.apply, *shape, **how)
        for stop in range(PIECE, size, PIECE):
            updating.advance(stop)
            if isinstance(updating, Piecewise):
                updating.wait()
            progress.reached(target.tensors[0].byte_offset + stop * target.staged.itemsize)
        return updating.end()

    def _prepare(
        self, place: Place, position: int, numbers: StepNumbers
    ) -> tuple[dict[str, float], NumbersOfTensors | None]:
        """The numbers of a run's update: those of the whole run, and those of each tensor."""
        factors = self._measurement.factors(position)
        scalars = dict(numbers.scalars[place.partition.group])
        scalars["guard_clip"] = float(factors[0])
        of_tensors = {"guard_clip": factors} if isinstance(self._gradient.clip, ClipByTensorNorm) else {}
        rule = place.rule
        if isinstance(rule, TensorwiseRule):
            sums = place.call(
                StepPrograms.measure_tensors, self._scaled, scalars=scalars, of_tensors=of_tensors
            )
            of_tensors |= rule.numbers_of_tensors({name: np.sqrt(sum_) for name, sum_ in sums.items()})
        return scalars, of_tensors or None

    def _settle(
        self, prepared: Sequence[tuple[dict[str, float], NumbersOfTensors | None]], numbers: StepNumbers
    ) -> None:
        """Completes the numbers of each `GroupwiseRule` by the sums over its group."""
        groupwise = [
            (place.partition.group, rule, place, *given)
            for place, given in zip(self._places, prepared, strict=True)
            if isinstance(rule := place.rule, GroupwiseRule)
        ]
        totals: dict[str, Counter[str]] = {}
        for group, _, place, scalars, of_tensors in groupwise:
            sums = place.call(
                StepPrograms.measure_group, self._scaled, scalars=scalars, of_tensors=of_tensors
            )
            found = totals.setdefault(group, Counter())
            found.update({name: float(of.sum()) for name, of in sums.items()})
        for group, rule, _, scalars, _ in groupwise:
            own, carried = rule.settled(totals[group], scalars)
            scalars.update(own)
            numbers.carried[group].update(carried)

    def _tensor_norms(self) -> tuple[tuple[str, float], ...]:
        if not self._options.per_tensor_norms:
            return ()
        return norms_by_tensor(self._staging.runs, self._measure(by_tensor=True))

    def _result(self, step: int, learning_rate: float = 0.0) -> StepResult:
        measurement = self._measurement
        applied = self.outcome is StepOutcome.APPLIED
        return StepResult(
            step=step,
            outcome=self.outcome,
            learning_rate=learning_rate,
            gradient_norm=measurement.norm,
            clipped_gradient_norm=measurement.clipped_norm,
            non_finite_count=measurement.non_finite_count,
            regularization_penalty=measurement.penalty,
            durable_step=self._session.durable_at(step),
            accumulated=0 if applied else self._session.accumulated,
            tensor_norms=self._tensor_norms(),
        )


def answer_with(session: Session | None, result: StepResult, reply: Reply | None, progress: Progress) -> None:
    """Tells of a result, and of the values beside it.

    Args:
        session: what the values are copied from; None where the step itself writes them.
        result: the result.
        reply: where values go.
        progress: who is told.
    """
    if reply is not None and session is None:
        reply.step = result.step
    elif reply is not None and session is not None:
        read(session, reply.staging, reply.point)
        reply.step = session.step
    progress.begun(result)
