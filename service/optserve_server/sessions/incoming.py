"""A gradient on its way in: fingerprinted and measured while its bytes are still in cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import xxhash

from optserve_server.arrays.backend import Pass
from optserve_server.sessions.guards import StepPrograms
from optserve_server.sessions.measurement import Measurement, measures_by_tensor
from optserve_server.sessions.partition import Piecewise
from optserve_server.sessions.plan import NumbersOfTensors, Plan
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.staging import Staging

if TYPE_CHECKING:
    from optserve_server.sessions.session import Session


class Incoming:
    """A staging that is filled from its beginning to its end.

    Neither the fingerprint nor, in most sessions, the measurement depends on the session's
    state, so both are taken as the bytes come. Where the measurement does depend on it (L1, L2,
    accumulation), or where the session changes meanwhile, it is taken when the step is.

    Args:
        session: the session.
        staging: the gradient's place.
        options: what the step asks for.
    """

    def __init__(self, session: Session, staging: Staging, options: StepOptions) -> None:
        self.staging, self.options = staging, options
        self._session, self._spec = session, session.spec
        self._reached = 0
        # Of rows, what was sent is not what is staged; of shared memory, its number stands for it.
        seen = options.worker and not staging.sparse and not options.gradient_id
        self._hasher = xxhash.xxh3_128() if seen else None
        self._passes: list[Pass | Piecewise] | None = None

    @classmethod
    def whole(cls, session: Session, staging: Staging, options: StepOptions) -> Self:
        """A gradient that is there."""
        incoming = cls(session, staging, options)
        incoming.reached(staging.byte_count)
        return incoming

    def reached(self, byte_count: int) -> None:
        """That many bytes are there."""
        if self._hasher is not None:
            self._hasher.update(self.staging.buffer[self._reached : byte_count].data)
        # What came in one piece is measured in one piece, when the step is taken.
        if byte_count < self.staging.byte_count:
            self._session.activity.used = time.monotonic()  # an upload may outlast its session's lease
            if self._reached == 0:
                self._passes = self._begun()
        self._reached = byte_count
        for run, measuring in zip(self.staging.runs, self._passes or (), strict=False):
            bytes_there = byte_count - run.tensors[0].byte_offset
            measuring.advance(min(max(0, bytes_there // run.staged.itemsize), run.staged.size))

    @property
    def is_brief(self) -> bool:
        """Whether the step is short enough for the event loop: a pass or two, and nothing to wait for."""
        session = self._session
        return session.is_brief and session.kept is None and Plan.of(session.arenas, self.staging).plain

    def digest(self) -> bytes:
        """`Staging.digest`, of a worker's step; nothing for another."""
        if not self.options.worker:
            return b""
        context = self.options.loss_scale, self.options.expected_step
        return self.staging.digest(*context, stand_in=self.options.gradient_id, of=self._hasher)

    def measurement(self) -> Measurement | None:
        """The sums over the gradient; None where they are still to be taken. Asked for once."""
        if self._passes is None or self._session.spec is not self._spec:
            return None
        return Measurement(self._spec.gradient, [measuring.end() for measuring in self._passes])

    def _begun(self) -> list[Pass | Piecewise] | None:
        session, gradient = self._session, self._spec.gradient
        if gradient.l1 or gradient.l2 or gradient.accumulation_steps > 1:
            return None
        places = Plan.of(session.arenas, self.staging).places
        if any(place.run.rows is not None for place in places):
            return None
        scaled, numbers = session.numbers.of_gradient(session.step, self.options.loss_scale)
        of_tensors: NumbersOfTensors | None = {} if measures_by_tensor(gradient) else None
        return [
            place.begin(StepPrograms.measure, scaled, scalars=numbers, of_tensors=of_tensors, sent=False)
            for place in places
        ]
