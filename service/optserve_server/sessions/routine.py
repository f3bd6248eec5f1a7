"""Steps like the one before: what they have in common is worked out once.

A step may be asked for in many ways, and `Session.prepare` looks at all of them. In a loop over
a small model that costs more than the arithmetic. A routine is made where nearly everything is
decided before a step comes; it takes the steps that go as expected, with the same kernels and
the same numbers. Whatever is unusual about one it leaves to `Session.prepare`, before it has
changed anything, so that no refusal is written twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from optserve_server.arrays.backend import Bound
from optserve_server.sessions.guards import GRADIENT, REPLY, StepPrograms
from optserve_server.sessions.measurement import Measurement
from optserve_server.sessions.plan import Plan
from optserve_server.sessions.reading import Point, Reply
from optserve_server.sessions.result import StepOptions, StepOutcome, StepResult
from optserve_server.sessions.spec import ClipByGlobalNorm, ClipByTensorNorm, NonFinitePolicy
from optserve_server.sessions.staging import Staging

if TYPE_CHECKING:
    from optserve_server.sessions.session import Session


class Routine:
    """The steps of one session on gradients that come into one buffer.

    Made by `of`, where there can be one.

    Args:
        session: the session.
        plan: of the buffer.
        staging: the buffer.
        options: what each step asks for, but for its worker's count and the step expected.
        reply: the values that follow, written by the kernels that compute them; None for none.
    """

    def __init__(
        self, session: Session, plan: Plan, staging: Staging, options: StepOptions, reply: Reply | None
    ) -> None:
        self._session, self._spec, self._plan = session, session.spec, plan
        self._staging, self._options, self._reply = staging, options, reply
        self._scaled = options.loss_scale != 1.0
        gradient = session.spec.gradient
        self._allows = gradient.non_finite is NonFinitePolicy.ALLOW
        # Where nothing depends on the measurement, the pass that updates takes it as well.
        self._one_pass = self._allows and not isinstance(gradient.clip, ClipByGlobalNorm)
        self._groups = [place.partition.group for place in plan.places]
        measured = () if self._one_pass else plan.places
        self._measures = [place.kernel(StepPrograms.measure, self._scaled) for place in measured]
        self._applies = [self._apply(position) for position in range(len(plan.places))]

    @classmethod
    def of(cls, session: Session, staging: Staging, options: StepOptions, reply: Reply | None) -> Self | None:
        """The routine of steps like one that was taken; None where each has to be looked at."""
        plan, gradient = staging.plan, session.spec.gradient
        if not isinstance(plan, Plan) or not plan.fits(session.arenas) or not session.is_small:
            return None
        decided = plan.plain and all(place.direct for place in plan.places)
        unusual = options.validate_only or options.per_tensor_norms or staging.sparse
        several = gradient.accumulation_steps > 1 or isinstance(gradient.clip, ClipByTensorNorm)
        penalized = gradient.l1 or gradient.l2
        partial = session.spec.weight_average is not None and any(session.arenas.untouched(staging.runs))
        if session.kept is not None or not decided or unusual or several or penalized or partial:
            return None
        if reply is not None and not plan.writes(reply):
            return None
        return cls(session, plan, staging, options, reply)

    def take(self, sequence: int, expected_step: int | None, gradient_id: int) -> StepResult | None:
        """Takes a step on what is in the buffer.

        Args:
            sequence: which it is of the worker's.
            expected_step: the step that the session must be at; None for any.
            gradient_id: stands for the gradient's bytes; 0 where they stand for themselves.

        Returns:
            What it did; None where it was not taken and nothing has changed.
        """
        session, worker = self._session, self._options.worker
        if not self._goes_on() or expected_step not in (None, session.step):
            return None
        digest = b""
        if worker:
            if not session.ledger.expects(worker, sequence):
                return None
            digest = self._staging.digest(self._options.loss_scale, expected_step, stand_in=gradient_id)
        _, guards = session.numbers.of_gradient(session.step, self._options.loss_scale)
        measurement = Measurement(self._spec.gradient, [measure.totals(guards) for measure in self._measures])
        if measurement.non_finite_count and not self._allows:
            return None
        result = self._applied(measurement, guards)
        if worker:
            session.ledger.remember(worker, digest, result)
        session.activity.stepped(result)
        return result

    def _goes_on(self) -> bool:
        """Whether everything is as it was, and it is this step's turn."""
        session = self._session
        return (
            session.spec is self._spec
            and self._plan.fits(session.arenas)
            and not (session.closed or session.damaged or session.kept or session.lock.locked())
            and not session.watch.stopped
        )

    def _applied(self, measurement: Measurement, guards: dict[str, float]) -> StepResult:
        """Updates everything, and counts the step."""
        session = self._session
        numbers = session.numbers.of_step(session.step, guards)
        sums = []
        with session.changing():
            for position, apply in enumerate(self._applies):
                scalars = numbers.scalars[self._groups[position]]
                scalars["guard_clip"] = float(measurement.factors(position)[0])
                sums.append(apply.totals(scalars))
        session.numbers.commit(numbers)
        session.step += 1
        if self._one_pass:
            measurement = Measurement(self._spec.gradient, sums)
        return StepResult(
            session.step,
            StepOutcome.APPLIED,
            numbers.learning_rate,
            measurement.norm,
            measurement.clipped_norm,
            measurement.non_finite_count,
        )

    def _apply(self, position: int) -> Bound:
        """The kernel that updates a run and writes its part of the reply."""
        place, reply = self._plan.places[position], self._reply
        if reply is None:
            return place.kernel(StepPrograms.apply, self._scaled, "", False, self._one_pass)
        here, averaged = reply.staging is self._staging, reply.point is Point.AVERAGE
        target = None if here else reply.staging.runs[position]
        into = GRADIENT if here else REPLY
        return place.kernel(StepPrograms.apply, self._scaled, into, averaged, self._one_pass, reply=target)
