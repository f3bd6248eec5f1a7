"""Contributions: steps of members, which a mode of coordination decides on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, Self

from optserve_server.coordination.aggregation import Weighted, add_weighted_gradient
from optserve_server.coordination.coordinator import CoordinatedSession, Coordinator, Held, Round
from optserve_server.coordination.mode import Action, Decision, Offer
from optserve_server.errors import DomainError, Reason, conflict_error
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.layout import Layout
from optserve_server.state.read_parameters import Reply
from optserve_server.state.session_change import ChangeKind
from optserve_server.state.staging import Staging, check_complete
from optserve_server.state.step_result import MemberOptions, StepOptions, StepOutcome, StepResult
from optserve_server.stepping.step import Step, fill_reply_and_report
from optserve_server.stepping.step_record import encode_step_record
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import dumps, pack_payload

AGGREGATED = (Action.HOLD, Action.ACCUMULATE)


class Contribution(Step):
    """A step of a member: prepared as any step is, and then decided on.

    Args:
        session: the session.
        staging: the gradient, or its place while it arrives.
        options: what the step asks for, its member among it.
        recorded: the decision that its record states; None if it was not recorded.

    Attributes:
        decision: what is done with it; None if it is answered as a step of no member would be: it is a
            repeat, a validation, or skipped.
    """

    kind = ChangeKind.CONTRIBUTION

    def __init__(
        self,
        session: CoordinatedSession,
        staging: Staging,
        options: StepOptions,
        recorded: Decision | None = None,
    ) -> None:
        super().__init__(session, staging, options)
        assert options.member is not None
        self._options_of_member: MemberOptions = options.member
        self._coordinated, self._recorded = session, recorded
        self.decision: Decision | None = None

    def prepare(self, session: Any) -> Self:
        """Checks, measures and decides; changes nothing but the lease.

        Raises:
            DomainError: what `Step.prepare` raises, FENCED, NOT_A_MEMBER, NO_DATA_PLAN,
                SHARD_NOT_HELD, STALE, ROUND_CLOSED, or CONFLICTING_FIELDS for what cannot be aggregated.
        """
        coordinator: Coordinator = session.coordinator
        of_member, worker = self._options_of_member, self.options.worker
        if self._recorded is None:
            self._member = coordinator.membership.check_and_renew(worker, of_member.epoch)
        else:
            self._member = coordinator.membership.active[worker]
        if self.staging.foreign:
            # Others may write to it while it waits.
            own = Staging(self.staging.tensors, allocate=session.allocate)
            own.buffer[:] = self.staging.buffer
            self.staging = own
        super().prepare(session)
        self._passes = None  # were ended; if it waits, it is measured again
        self.decision = None
        if of_member.completed_shards and self.stored is None and self._recorded is None:
            coordinator.require_data_plan().check_shards_held(worker, of_member.completed_shards)
        if self.stored is not None or self.outcome in (StepOutcome.VALIDATED, StepOutcome.SKIPPED):
            return self
        computed = of_member.parameters_step
        staleness = None if computed is None else session.step - computed
        offer = Offer(self._member, staleness, session.step)
        self.decision = self._recorded or coordinator.mode.decide(
            offer, coordinator.membership.contributing_members or [self._member]
        )
        if self.decision.action in AGGREGATED:
            self._check_can_aggregate(session, coordinator)
        if self.decision.action is Action.ACCUMULATE and coordinator.round is None:
            coordinator.round = Round(
                make_aggregate_staging(session)
            )  # what may be rejected is so before the record
        self.has_changes = self.decision.action not in (Action.HOLD, Action.WAIT)
        return self

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        decision = self.decision
        stated = None if decision is None else [decision.action, decision.staleness, decision.factor]
        facts = {"member": astuple(self._options_of_member), "decision": stated}
        if decision is not None and decision.action is Action.DROP:
            return pack_payload({"kind": ChangeKind.DROPPED, **facts, **self._drop_record_fields()})
        return encode_step_record(self.staging, self.options, self.kind, dumps(facts)[1:-1] + ",")

    def execute_decision(self, reply: Reply | None = None) -> StepResult | Held:
        """Does what was decided.

        Returns:
            The result, or what the contribution waits as.
        """
        decision, session = self.decision, self._coordinated
        coordinator = session.coordinator
        if decision is None:
            result = self.commit(reply)
            if self.has_changes:
                count_contribution(session, result)
            return result
        if decision.action is Action.WAIT:
            return coordinator.defer_contribution(Held(self._member, self.options.sequence))
        if decision.action is Action.HOLD:
            return coordinator.hold_contribution(self._make_held(decision))
        if decision.action is Action.APPLY:
            if decision.factor != 1.0:
                rates = session.scalars.make_damping_overrides(
                    session.step, self.options.overrides, decision.factor
                )
                self.options = replace(self.options, overrides=(*self.options.overrides, *rates))
            self.contribution = (decision.staleness, 1, decision.factor)
            result = self.commit(reply)
            count_contribution(session, result, self._options_of_member.completed_shards)
            return result
        if decision.action is Action.ACCUMULATE:
            result = self._accumulate_in_round(decision)
        else:
            result = drop_contribution(session, self.options.worker, self._drop_record_fields())
        fill_reply_and_report(session, result, reply, None)
        return result

    def _make_held(self, decision: Decision) -> Held:
        weight = float(self._options_of_member.example_count)
        weighted = Weighted(self.staging, weight, self.options.loss_scale)
        norms = self.options.per_tensor_norms
        shards = self._options_of_member.completed_shards
        return Held(
            self._member, self.options.sequence, self._digest, decision.staleness, weighted, norms, shards
        )

    def _check_can_aggregate(self, session: CoordinatedSession, coordinator: Coordinator) -> None:
        """Rejects what cannot be aggregated, and another content under a sequence that waits."""
        if self.options.overrides:
            raise conflict_error(
                "options.overrides", "a contribution that is aggregated with others has no overrides"
            )
        if any(tensor.rows is not None for tensor in self.staging.tensors):
            raise conflict_error("sparse_gradients", "sparse rows are aggregated under DENSE only")
        check_complete(session.layout, self._plan.covered, session.spec.frozen_groups)
        held = coordinator.held.get(self.options.worker)
        if held is not None and held.digest != self._digest:
            raise DomainError(
                Reason.SEQUENCE_REUSED,
                "the worker's step waits with another content",
                field="options.sequence",
                metadata={"expected": self.options.sequence, "actual": self.options.sequence},
            )

    def _accumulate_in_round(self, decision: Decision) -> StepResult:
        """Adds the contribution to the round."""
        session, coordinator = self._coordinated, self._coordinated.coordinator
        current = coordinator.round
        assert current is not None  # made by `prepare`
        weight = self._options_of_member.example_count * decision.factor
        given = {tensor.entry.name: self.staging.array(tensor) for tensor in self.staging.tensors}
        for tensor in current.total.tensors:
            total = current.total.array(tensor)
            share = weight / self.options.loss_scale
            add_weighted_gradient(total, given[tensor.entry.name], share, is_first=not current.count)
        if not current.count:
            current.since = coordinator.membership.clock()
        current.count += 1
        current.weight += weight
        self.outcome = StepOutcome.ACCUMULATED
        self._statistics = self._statistics or self._measure_gradient(by_tensor=False)
        result = self._make_result(session.step, 0.0)
        result.accumulated = result.contributions = current.count
        result.staleness, result.weight = decision.staleness, decision.factor
        session.store_result(result, self._digest)
        count_contribution(session, result, self._options_of_member.completed_shards)
        return result

    def _drop_record_fields(self) -> dict[str, Any]:
        assert self.decision is not None
        return {
            "worker": self.options.worker,
            "sequence": self.options.sequence,
            "digest": self._digest.hex(),
            "staleness": self.decision.staleness,
        }


def count_contribution(
    session: CoordinatedSession, result: StepResult, completed_shards: Sequence[int] = ()
) -> None:
    """Counts a contribution that was answered.

    One that was skipped counts as well: if a worker has nothing else to contribute, others do not wait.
    """
    coordinator, membership = session.coordinator, session.coordinator.membership
    member = membership.active[result.worker]
    member.count_contribution(result.step, result.staleness, membership.clock())
    if result.outcome in (StepOutcome.ACCUMULATED, StepOutcome.SKIPPED):
        membership.mark_participation(member)
    coordinator.complete_shards(result.worker, completed_shards)
    coordinator.reconsider_waiting()


def drop_contribution(session: CoordinatedSession, worker: str, facts: Mapping[str, Any]) -> StepResult:
    """Answers a contribution that came too late, and changes nothing else."""
    durability = session.durability
    result = StepResult(
        session.step,
        StepOutcome.DROPPED,
        staleness=facts["staleness"],
        durable_step=0 if durability is None else durability.durable_step(session.step),
        worker=worker,
        sequence=facts["sequence"],
    )
    session.store_result(result, bytes.fromhex(facts["digest"]))
    count_contribution(session, result)
    return result


def replay_contribution(
    session: CoordinatedSession, staging: Staging, options: StepOptions, facts: Mapping[str, Any]
) -> object:
    """Takes a recorded contribution again."""
    stated = facts["decision"]
    recorded = None if stated is None else Decision(Action(stated[0]), stated[1], stated[2])
    epoch, example_count, parameters_step, shards = facts["member"]
    asked = replace(options, member=MemberOptions(epoch, example_count, parameters_step, tuple(shards)))
    if recorded is None:
        skipped = Step(session, staging, asked).prepare(session).commit()
        count_contribution(session, skipped)
        return skipped
    return Contribution(session, staging, asked, recorded).prepare(session).execute_decision()


def make_aggregate_staging(session: CoordinatedSession) -> Staging:
    """A buffer for an aggregate: every tensor that is not frozen, in its own type."""
    return session.allocate_staging(
        tensor_names_to_aggregate(session.layout, session.spec.frozen_groups), None, is_resident=True
    )


def tensor_names_to_aggregate(layout: Layout, frozen: frozenset[str]) -> list[str]:
    """Names of the tensors that are aggregated."""
    return [entry.name for entry in layout.entries if entry.group not in frozen]
