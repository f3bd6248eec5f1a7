"""Steps like the one before: what they have in common is worked out once.

A step may be asked for in many ways, and `Session.prepare` looks at all of them. In a loop over
a small model that costs more than the arithmetic. A routine is made where nearly everything is
decided before a step comes; it takes the steps that go as expected, with the same kernels and
the same numbers. Whatever is unusual about one it leaves to `Session.prepare`, before it has
changed anything, so that no refusal is written twice.
"""

from __future__ import annotations

from dataclasses import replace
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

    Attributes:
        session: the session.
        staging: the buffer.
        changes: as of a `PreparedStep`: that which is prepared will change the session.
    """

    changes = True

    def __init__(
        self, session: Session, plan: Plan, staging: Staging, options: StepOptions, reply: Reply | None
    ) -> None:
        self.session, self.staging = session, staging
        self._spec, self._plan, self._options, self._reply = session.spec, plan, options, reply
        self._asked: tuple[int, int | None, int] = 0, None, 0
        self._digest, self._guards = b"", session.numbers.of_guards(0)
        self._measurement = Measurement(session.spec.gradient)
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
        if not isinstance(plan, Plan) or not plan.fits(session.arenas) or not session.is_brief:
            return None
        decided = plan.plain and all(place.direct for place in plan.places)
        unusual = options.validate_only or options.per_tensor_norms or staging.sparse
        several = gradient.accumulation_steps > 1 or isinstance(gradient.clip, ClipByTensorNorm)
        penalized = gradient.l1 or gradient.l2
        partial = session.spec.weight_average is not None and any(session.arenas.untouched(staging.runs))
        if not decided or unusual or several or penalized or partial:
            return None
        if session.kept is not None and staging.foreign:
            return None  # what is recorded has to be a copy
        if reply is not None and not plan.writes(reply):
            return None
        return cls(session, plan, staging, options, reply)

    @property
    def options(self) -> StepOptions:
        """What the step that is prepared asks for."""
        sequence, expected_step, gradient_id = self._asked
        own = self._options
        return replace(own, sequence=sequence, expected_step=expected_step, gradient_id=gradient_id)

    def prepare(self, sequence: int, expected_step: int | None, gradient_id: int) -> bool:
        """Checks and measures a step on what is in the buffer, and changes nothing.

        Until `commit` nothing else may touch the session.

        Args:
            sequence: which it is of the worker's.
            expected_step: the step that the session must be at; None for any.
            gradient_id: stands for the gradient's bytes; 0 where they stand for themselves.

        Returns:
            Whether it goes as expected.
        """
        session, worker, scale = self.session, self._options.worker, self._options.loss_scale
        if not self._goes_on() or expected_step not in (None, session.step):
            return False
        if worker:
            if not session.ledger.expects(worker, sequence):
                return False
            self._digest = self.staging.digest(scale, expected_step, stand_in=gradient_id)
        self._asked = sequence, expected_step, gradient_id
        _, self._guards = session.numbers.of_gradient(session.step, scale)
        sums = [measure.totals(self._guards) for measure in self._measures]
        self._measurement = Measurement(self._spec.gradient, sums)
        return self._allows or not self._measurement.non_finite_count

    def commit(self) -> StepResult:
        """Takes the step that was prepared."""
        session, worker = self.session, self._options.worker
        result = self._applied()
        if worker:
            session.ledger.remember(worker, self._digest, result)
        session.activity.stepped(result)
        return result

    def _goes_on(self) -> bool:
        """Whether everything is as it was."""
        session = self.session
        return (
            session.spec is self._spec
            and self._plan.fits(session.arenas)
            and not (session.closed or session.damaged or session.watch.stopped)
        )

    def _applied(self) -> StepResult:
        """Updates everything, and counts the step."""
        session, measurement = self.session, self._measurement
        numbers = session.numbers.of_step(session.step, self._guards)
        durable = session.durable_at(session.step + 1)
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
            durable_step=durable,
        )

    def _apply(self, position: int) -> Bound:
        """The kernel that updates a run and writes its part of the reply."""
        place, reply = self._plan.places[position], self._reply
        if reply is None:
            return place.kernel(StepPrograms.apply, self._scaled, "", False, self._one_pass)
        here, averaged = reply.staging is self.staging, reply.point is Point.AVERAGE
        target = None if here else reply.staging.runs[position]
        into = GRADIENT if here else REPLY
        return place.kernel(StepPrograms.apply, self._scaled, into, averaged, self._one_pass, reply=target)
