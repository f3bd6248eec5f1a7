"""State of a session's coordination: members, contributions that wait, and the open round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from optserve_server.arrays.backend import Backend
from optserve_server.coordination.aggregation import Weighted
from optserve_server.coordination.asynchronous import Asynchronous
from optserve_server.coordination.bounded import Bounded
from optserve_server.coordination.data_progress import DataProgress
from optserve_server.coordination.membership import Member, Membership
from optserve_server.coordination.mode import Gathered, Mode
from optserve_server.coordination.rounds import Rounds
from optserve_server.coordination.solo import Solo
from optserve_server.coordination.sync import Sync
from optserve_server.coordination.uploads import Uploads
from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Budget
from optserve_server.spec.coordination import (
    CoordinationAsync,
    CoordinationBounded,
    CoordinationRounds,
    CoordinationSpec,
    CoordinationSync,
)
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.layout import Layout
from optserve_server.state.session_state import SessionState
from optserve_server.state.staging import Staging
from optserve_server.state.step_result import StepResult

RETRY_AFTER_S = 1.0
"""Seconds after which what was due and could not be done, as on a full disk, is tried again."""


class Held:
    """A contribution that waits: to be aggregated with others, or to be decided on again.

    Args:
        member: its sender.
        sequence: its number.
        digest: of its content.
        staleness: its staleness.
        weighted: its gradient; None if it is not to be aggregated.
        per_tensor_norms: whether its result is to have them.
        completed_shards: shards that are complete with it.

    Attributes:
        result: that of the step that it became a part of; None if it is to be decided on again.
        error: why it was rejected.
    """

    def __init__(
        self,
        member: Member,
        sequence: int,
        digest: bytes = b"",
        staleness: int = 0,
        weighted: Weighted | None = None,
        per_tensor_norms: bool = False,
        completed_shards: Sequence[int] = (),
    ) -> None:
        self.member, self.sequence, self.digest = member, sequence, digest
        self.staleness, self.weighted, self.per_tensor_norms = staleness, weighted, per_tensor_norms
        self.completed_shards = completed_shards
        self.result: StepResult | None = None
        self.error: Exception | None = None
        self._on_decided: list[Callable[[], object]] | None = []

    def add_done_callback(self, on_decided: Callable[[], object]) -> None:
        """Calls ``on_decided`` when it waits no more, by any thread; at once if it does not."""
        if self._on_decided is None:
            on_decided()
        else:
            self._on_decided.append(on_decided)

    def resolve(self, result: StepResult | None = None, error: Exception | None = None) -> None:
        """Ends its wait."""
        self.result, self.error = result, error
        calls, self._on_decided = self._on_decided or [], None
        for on_decided in calls:
            on_decided()


class Round:
    """Contributions that are added up until the round closes.

    Attributes:
        total: sum of weight*change over the contributions, in the parameters' types.
        count: how many there are.
        weight: the sum of their weights.
        since: when the first of them was added.
    """

    def __init__(self, total: Staging) -> None:
        self.total, self.count, self.weight, self.since = total, 0, 0.0, math.inf

    def clear(self) -> None:
        """Removes the contributions."""
        self.count, self.weight, self.since = 0, 0.0, math.inf


class Coordinator:
    """Members, contributions that wait, and the open round of one session; changed under its lock.

    Args:
        spec: how contributions become steps; None for SOLO.
        clock: the time in seconds, which never goes back.

    Attributes:
        membership: the members.
        mode: decides what contributions do.
        held: contributions that are to be aggregated, by worker.
        waiting: contributions that are to be decided on again.
        progress: progress of the data plan; None without one.
        uploads: uploads that broke off.
        round: the round of ROUNDS; None before its first contribution.
    """

    def __init__(self, spec: CoordinationSpec | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.membership = Membership(clock)
        self.held: dict[str, Held] = {}
        self.waiting: list[Held] = []
        self.progress: DataProgress | None = None
        self.uploads = Uploads()
        self._waiting_for_shards: dict[str, Held] = {}
        self.round: Round | None = None
        self._target: Staging | None = None
        self._since = math.inf
        self._not_before = -math.inf
        self.replace_spec(spec)

    def replace_spec(self, spec: CoordinationSpec | None) -> None:
        """Takes another specification, while no round is open; what waits is decided on again."""
        self.spec, self.mode = spec, _make_mode(spec)
        self.round = self._target = None  # of other tensors, perhaps
        self.membership.begin_round()
        self.reconsider_all()

    def hold_contribution(self, held: Held) -> Held:
        """Stores a contribution that is to be aggregated; returns the stored one for a repeat."""
        kept = self.held.get(held.member.worker)
        if kept is not None:
            return kept
        if not self.held:
            self._since = self.membership.clock()
        self.held[held.member.worker] = held
        self.membership.begin_wait(held.member)
        return held

    def defer_contribution(self, held: Held) -> Held:
        """Keeps a contribution to be decided on again when members have changed or contributed."""
        self.waiting.append(held)
        self.membership.begin_wait(held.member)
        return held

    def take_contributions(self) -> list[Held]:
        """Ends the wait of all that is to be aggregated; by rank. The caller decides them."""
        taken = sorted(self.held.values(), key=lambda held: held.member.rank)
        for held in taken:
            self.membership.end_wait(held.member)
        self.held, self._since = {}, math.inf
        return taken

    def reconsider_waiting(self) -> None:
        """Has what waits for other members decided on again."""
        waiting, self.waiting = self.waiting, []
        for held in waiting:
            self.membership.end_wait(held.member)
            held.resolve()
        progress = self.progress
        if progress is None or progress.is_finished or progress.next_shards():
            self._end_waits_for_shards()

    def register_shard_wait(self, member: Member) -> Held:
        """What is decided when shards were given back, or all are complete."""
        return self._waiting_for_shards.setdefault(member.worker, Held(member, 0))

    def _end_waits_for_shards(self) -> None:
        waiting, self._waiting_for_shards = self._waiting_for_shards, {}
        for held in waiting.values():
            held.resolve()

    def reconsider_all(self, error: Exception | None = None) -> None:
        """Has everything that waits decided on again, or rejects what is to be aggregated."""
        for held in self.take_contributions():
            held.resolve(error=error)
        self.reconsider_waiting()
        self._end_waits_for_shards()

    def release_worker(self, worker: str) -> None:
        """Has what waits of a worker whose epoch ends decided on again, and what its end lets go on.

        Its shards are given back.
        """
        self.uploads.drop_upload(worker)
        if self.progress is not None:
            self.progress.return_shards(worker)
        held = self.held.pop(worker, None)
        if held is not None:
            self.membership.end_wait(held.member)
            held.resolve()
        waiting = self._waiting_for_shards.pop(worker, None)
        if waiting is not None:
            waiting.resolve()
        self.reconsider_waiting()

    def require_data_plan(self) -> DataProgress:
        """The progress of the data plan.

        Raises:
            DomainError: NO_DATA_PLAN.
        """
        if self.progress is None:
            text = "the session has no data plan; create it with data_plan, or update it"
            raise DomainError(Reason.NO_DATA_PLAN, text)
        return self.progress

    def complete_shards(self, worker: str, numbers: Sequence[int]) -> None:
        """Completes the shards that a step was computed of."""
        if self.progress is not None:
            self.progress.complete_shards(worker, numbers)

    def close_round(self) -> None:
        """Begins the next round."""
        if self.round is not None:
            self.round.clear()
        self.membership.begin_round()

    def get_aggregation_buffer(self, make: Callable[[], Staging]) -> Staging:
        """Where contributions are aggregated."""
        if self._target is None:
            self._target = make()
        return self._target

    def is_step_ready(self) -> bool:
        """Whether a step is to be taken of what is gathered."""
        gathered = self._summarize_gathered()
        now = self.membership.clock()
        if not gathered.count or now < self._not_before:
            return False
        return self.mode.is_step_ready(gathered, now)

    def next_due_time(self) -> float:
        """When something is to be done without a call: a lease runs out, or a step is to be taken."""
        gathered = self._summarize_gathered()
        step_at = self.mode.step_deadline(gathered) if gathered.count else math.inf
        if gathered.count and self.mode.is_step_ready(gathered, -math.inf):
            step_at = -math.inf
        return max(min(step_at, self.membership.next_lease_expiry()), self._not_before)

    def handle_failed_step(self, error: Exception) -> None:
        """Notes that what was due could not be done: contributions are rejected, the rest is tried again."""
        if not self.held:
            self._not_before = self.membership.clock() + RETRY_AFTER_S
        self.reconsider_all(error)

    @property
    def has_open_round(self) -> bool:
        """Whether contributions have been added to a round that is not closed."""
        return self.round is not None and self.round.count > 0

    def to_json(self) -> dict[str, Any] | None:
        """What is durable beside the round's arrays, as JSON; None if there never was a member."""
        if (
            self.membership.next_epoch == 1
            and self.round is None
            and not (self.progress and self.progress.next)
        ):
            return None
        return self._to_json(self.membership, self.progress)

    def to_json_without_members(self) -> dict[str, Any]:
        """The same without members, for a copy of the session."""
        progress = None
        if self.progress is not None:
            progress = DataProgress(self.progress.plan)
            progress.restore(self.progress.to_json())
            progress.return_all_shards()
        return self._to_json(Membership(), progress)

    def _to_json(self, membership: Membership, progress: DataProgress | None) -> dict[str, Any]:
        return {
            **membership.to_json(),
            "round": self.round and [self.round.count, self.round.weight],
            "data": progress and progress.to_json(),
        }

    def return_all_shards(self) -> None:
        """Returns all shards that are leased."""
        if self.progress is not None:
            self.progress.return_all_shards()

    def restore(self, facts: dict[str, Any] | None, make: Callable[[], Staging]) -> None:
        """Takes over what `to_json` returned; the arrays of an open round are to be filled."""
        if facts is None:
            return
        self.membership.restore(facts)
        if facts["round"] is not None:
            self.round = Round(make())
            self.round.count, self.round.weight = int(facts["round"][0]), float(facts["round"][1])
            self.round.since = self.membership.clock() if self.round.count else math.inf
        if self.progress is not None and facts["data"] is not None:
            self.progress.restore(facts["data"])

    def _summarize_gathered(self) -> Gathered:
        count, since = len(self.held), self._since
        if self.round is not None:
            count, since = self.round.count, self.round.since
        return Gathered(count, since, *self.membership.count_awaited_and_idle())


class CoordinatedSession(SessionState):
    """State of a session, with its members; arguments as of `SessionState`.

    Attributes:
        coordinator: members, contributions that wait, and the open round.
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
        super().__init__(session_id, spec, layout, backend, pending, budget)
        self.coordinator = Coordinator(spec.coordination)
        self.apply_coordination_spec()

    def list_member_names(self) -> Container[str]:
        return self.coordinator.membership.active

    def apply_coordination_spec(self) -> None:
        """Coordinates as the specification says now."""
        coordinator, plan = self.coordinator, self.spec.data_plan
        if plan is None or coordinator.progress is None:
            coordinator.progress = None if plan is None else DataProgress(plan)
        else:
            coordinator.progress.plan = plan
        coordinator.replace_spec(self.spec.coordination)
        self.members_only = self.coordinator.mode.members_only


def _make_mode(spec: CoordinationSpec | None) -> Mode:
    if isinstance(spec, CoordinationSync):
        return Sync(spec)
    if isinstance(spec, CoordinationAsync):
        return Asynchronous(spec)
    if isinstance(spec, CoordinationBounded):
        return Bounded(spec)
    return Rounds(spec) if isinstance(spec, CoordinationRounds) else Solo()
