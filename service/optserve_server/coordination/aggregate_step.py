"""The step that gathered contributions become."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from optserve_server.coordination.aggregation import aggregate_contributions
from optserve_server.coordination.contribution import make_aggregate_staging
from optserve_server.coordination.coordinator import CoordinatedSession, Held
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.coordination import Aggregation, CoordinationSync
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.session_activity import Contributed
from optserve_server.state.session_change import Change, ChangeKind
from optserve_server.state.staging import Staging
from optserve_server.state.step_result import MemberOptions, StepOptions, StepOutcome, StepResult
from optserve_server.stepping.step import Step
from optserve_server.stepping.step_record import encode_step_record
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import dumps, pack_payload

NO_MEMBER = MemberOptions(0)
"""Of a step that coordination itself takes."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A contribution's part in a step, as its record states it."""

    worker: str
    sequence: int
    digest: str
    staleness: int
    weight: float
    completed_shards: Sequence[int] = ()


class AggregateStep(Change[Any, "AggregateStep"]):
    """One step of all contributions that are held (SYNC).

    Its record has the aggregate and names the contributions, so that all of them are in one record.

    Args:
        recorded: aggregate and shares of its record; None if it was not recorded.

    Attributes:
        has_changes: whether there are enough contributions.
    """

    kind = ChangeKind.AGGREGATE

    def __init__(self, recorded: tuple[Staging, StepOptions, Sequence[Share]] | None = None) -> None:
        self._recorded = recorded
        self._shares: Sequence[Share] = ()
        self._session: CoordinatedSession | None = None
        self._step: Step | None = None
        self.has_changes = False

    def prepare(self, session: CoordinatedSession) -> Self:
        """Aggregates what is held, and prepares its step.

        Raises:
            DomainError: what `Step.prepare` raises.
        """
        self._session = session
        if self._recorded is not None:
            staging, options, self._shares = self._recorded
        elif not session.coordinator.is_step_ready():
            return self
        else:
            held = sorted(session.coordinator.held.values(), key=lambda one: one.member.rank)
            staging = session.coordinator.get_aggregation_buffer(lambda: make_aggregate_staging(session))
            self._shares = self._aggregate_contributions(session, held, staging)
            norms = any(one.per_tensor_norms for one in held)
            options = StepOptions(per_tensor_norms=norms, member=NO_MEMBER)
        self._step = Step(session, staging, options).prepare(session)
        self.has_changes = True
        return self

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        assert self._step is not None
        shares = dumps([dataclasses.astuple(share) for share in self._shares])
        return encode_step_record(self._step.staging, self._step.options, self.kind, f'"shares":{shares},')

    def roll_back(self) -> None:
        """Does nothing: `prepare` takes nothing."""

    def commit(self) -> object:
        """Takes the step; each contribution gets its result."""
        session = self._session
        if session is None or self._step is None:
            return None
        self._step.contribution = (0, len(self._shares), 0.0)
        result = self._step.commit()
        held = {one.member.worker: one for one in session.coordinator.take_contributions()}
        membership = session.coordinator.membership
        now = membership.clock()
        membership.begin_round()
        for share in self._shares:
            own = dataclasses.replace(
                result,
                worker=share.worker,
                sequence=share.sequence,
                staleness=share.staleness,
                weight=share.weight,
            )
            digest = bytes.fromhex(share.digest)
            session.step_deduplication.remember_result(share.worker, digest, own, session.list_member_names)
            membership.active[share.worker].count_contribution(own.step, own.staleness, now)
            if result.outcome is not StepOutcome.SKIPPED:
                session.coordinator.complete_shards(share.worker, share.completed_shards)
            session.activity.publish(Contributed(own))
            if share.worker in held:
                held[share.worker].resolve(own)
        session.coordinator.reconsider_waiting()
        return result

    def _aggregate_contributions(
        self, session: CoordinatedSession, held: Sequence[Held], staging: Staging
    ) -> list[Share]:
        spec = session.coordinator.spec
        assert isinstance(spec, CoordinationSync)
        given = [one.weighted for one in held if one.weighted is not None]
        aggregate_contributions(given, staging, spec)
        weights = [one.weight if spec.weight_by_examples else 1.0 for one in given]
        total = 1.0 if spec.aggregation is Aggregation.SUM else sum(weights)
        return [
            Share(
                one.member.worker,
                one.sequence,
                one.digest.hex(),
                one.staleness,
                weight / total,
                one.completed_shards,
            )
            for one, weight in zip(held, weights, strict=True)
        ]


class CloseRound(Change[Any, "CloseRound"]):
    """One step of the mean of a round's changes (ROUNDS).

    The gradient is -total/weight: its division is that of a loss scale. A mean that is not finite,
    though each contribution is, is skipped.
    """

    kind = ChangeKind.CLOSE_ROUND

    def __init__(self, *, is_recorded: bool = False) -> None:
        self._is_recorded = is_recorded
        self._session: CoordinatedSession | None = None
        self._step: Step | None = None
        self.has_changes = False

    def prepare(self, session: CoordinatedSession) -> Self:
        """Prepares the step.

        Raises:
            DomainError: what `Step.prepare` raises.
        """
        self._session, current = session, session.coordinator.round
        self.has_changes = current is not None and (self._is_recorded or session.coordinator.is_step_ready())
        if current is None or not self.has_changes:
            return self
        try:
            options = StepOptions(loss_scale=-current.weight, member=NO_MEMBER)
            self._step = Step(session, current.total, options).prepare(session)
        except DomainError as error:
            if error.reason is not Reason.NON_FINITE_GRADIENT:
                raise
        return self

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record: the contributions have records of their own."""
        return pack_payload({"kind": self.kind})

    def roll_back(self) -> None:
        """Does nothing: `prepare` takes nothing."""

    def commit(self) -> object:
        """Takes the step, and begins the next round."""
        session, result = self._session, None
        if not self.has_changes or session is None or session.coordinator.round is None:
            return None
        if self._step is None:
            session.complete_step(StepResult(session.step, StepOutcome.SKIPPED), b"")
        else:
            self._step.contribution = (0, session.coordinator.round.count, 0.0)
            result = self._step.commit()
        session.coordinator.close_round()
        return result


def replay_aggregate(
    session: CoordinatedSession, staging: Staging, options: StepOptions, facts: Mapping[str, Any]
) -> object:
    """Takes a recorded step of contributions again."""
    shares = [Share(*share) for share in facts["shares"]]
    options = dataclasses.replace(options, member=NO_MEMBER)
    return AggregateStep((staging, options, shares)).prepare(session).commit()
