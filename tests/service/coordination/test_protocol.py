"""The protocol of members and contributions, driven at random: what must hold, and bugs that are found.

Each contribution's gradient is a number of its own, a power of two, and steps add gradients up
(SGD at a learning rate of 1, SUM). So the parameter says which contributions were counted, and how often.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from optserve_server.coordination import aggregate_step
from optserve_server.coordination.bounded import Bounded
from optserve_server.coordination.coordinator import Coordinator
from optserve_server.coordination.membership import Member, Membership
from optserve_server.coordination.mode import Action, Decision
from optserve_server.coordination.sync import Sync
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import (
    Aggregation,
    CoordinationAsync,
    CoordinationBounded,
    CoordinationRounds,
    CoordinationSpec,
    CoordinationSync,
    LateContribution,
)
from optserve_server.state.step_deduplication import StepDeduplication
from optserve_server.state.step_result import StepOutcome
from tests.service.coordination.support import Coordinated, Waiting
from tests.service.sessions.support import spec_of

WORKERS = "abcd"
MODES: dict[str, CoordinationSpec] = {
    "sync": CoordinationSync(aggregation=Aggregation.SUM),
    "quorum": CoordinationSync(
        aggregation=Aggregation.SUM,
        replicas_to_aggregate=3,
        min_replicas=2,
        straggler_timeout_seconds=2.0,
        late=LateContribution.CARRY,
    ),
    "async": CoordinationAsync(max_staleness=3),
    "bounded": CoordinationBounded(max_lead=2),
    "rounds": CoordinationRounds(buffer_size=3, deadline_seconds=3.0),
}
SETTINGS = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Protocol(RuleBasedStateMachine):
    """Workers that join, leave, crash, contribute, repeat, and are expired, and a server that restarts."""

    mode: CoordinationSpec

    @initialize()
    def begin(self) -> None:
        QUORUMS.clear()
        spec = spec_of(SGD(learning_rate=1.0), coordination=self.mode)
        self.made = Coordinated(spec, {"w": np.zeros(1, np.float64)})
        self.epochs: dict[str, int] = {}  # of the workers that run
        self.sent: dict[str, tuple[int, float, int]] = {}  # sequence, value, computed at
        self.waits: dict[str, Waiting] = {}
        self.values: dict[tuple[str, int], float] = {}
        self.fenced = 0
        self.next_value = 0

    @rule(worker=st.sampled_from(WORKERS), lease=st.sampled_from([1.0, 5.0]))
    def join(self, worker: str, lease: float) -> None:
        before = self.made.session.coordinator.membership.next_epoch
        member = self.made.join(worker, lease)
        assert member.epoch >= before
        self.epochs[worker] = member.epoch
        self.waits.pop(worker, None)

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        if worker in self.epochs:
            self.made.leave(worker, self.epochs.pop(worker))

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        self.epochs.pop(worker, None)
        self.waits.pop(worker, None)

    @rule(worker=st.sampled_from(WORKERS), late=st.integers(0, 2))
    def contribute(self, worker: str, late: int) -> None:
        if worker not in self.epochs or (worker in self.waits and self.waits[worker].outcome is None):
            return
        session = self.made.session
        sequence = session.step_deduplication.next_sequence(worker)
        if sequence > 40 or self.next_value >= 50:
            return
        value = self.values.get((worker, sequence))
        if value is None:
            value = float(1 << self.next_value)
            self.next_value += 1
            self.values[worker, sequence] = value
        self.sent[worker] = (sequence, value, max(0, session.step - late))
        self.send(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def repeat(self, worker: str) -> None:
        """A worker that lost an answer, or timed out, sends the same again."""
        if worker in self.sent and worker in self.epochs:
            self.send(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def send_from_the_past(self, worker: str) -> None:
        """An earlier incarnation of a worker is still alive."""
        epoch = self.epochs.get(worker, 0)
        membership = self.made.session.coordinator.membership
        if worker in self.sent and epoch > 1:
            before = self.made.parameters()["w"].copy(), membership.to_json()
            waiting = self.made.contribute(worker, epoch - 1, *self.gradient(worker))
            assert getattr(waiting.outcome, "reason", "") in ("FENCED", "NOT_A_MEMBER")
            assert (self.made.parameters()["w"], membership.to_json()) == before

    def gradient(self, worker: str) -> Any:
        sequence, value, at = self.sent[worker]
        return sequence, {"w": np.full(1, -value)}, at

    def send(self, worker: str) -> None:
        self.waits[worker] = self.made.contribute(worker, self.epochs[worker], *self.gradient(worker))

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.made.now += seconds
        self.made.settle()

    @rule()
    def restart(self) -> None:
        before = self.made.parameters()["w"], self.made.session.coordinator.to_json()
        self.made.restart()
        self.waits.clear()
        facts = self.made.session.coordinator.to_json()
        assert self.made.parameters()["w"] == before[0]
        assert facts == before[1]

    @invariant()
    def each_contribution_counts_once(self) -> None:
        session = self.made.session
        counted = 0.0
        for worker, _, answered in session.step_deduplication.to_json():
            for _, result in answered:
                if result["outcome"] in (StepOutcome.APPLIED, StepOutcome.ACCUMULATED):
                    counted += self.values[worker, result["sequence"]]
        if not isinstance(self.mode, CoordinationRounds):  # of these, `test_rounds` checks the mean
            assert float(self.made.parameters()["w"][0]) == counted

    @invariant()
    def no_step_without_its_quorum(self) -> None:
        if not isinstance(self.mode, CoordinationSync):
            return
        for worker in WORKERS:
            for _, last, answered in (
                one for one in self.made.session.step_deduplication.to_json() if one[0] == worker
            ):
                assert last == answered[-1][1]["sequence"]
                for _, result in answered:
                    if result["outcome"] == StepOutcome.APPLIED:
                        assert result["contributions"] >= self.mode.min_replicas
        coordinator = self.made.session.coordinator
        active, held = len(coordinator.membership.active), len(coordinator.held)
        wanted = active
        if self.mode.replicas_to_aggregate is not None:
            wanted = min(active, self.mode.replicas_to_aggregate)
        assert held < max(wanted, self.mode.min_replicas)  # or it would have been taken: no deadlock

    @invariant()
    def answers_are_those_of_whole_quorums(self) -> None:
        """Without a time-out, a step has the contribution of every member that there was."""
        for quorum, members in QUORUMS:
            assert quorum >= members
        QUORUMS.clear()

    @invariant()
    def leads_are_bounded_and_each_wait_has_a_reason(self) -> None:
        if not isinstance(self.mode, CoordinationBounded):
            return
        membership = self.made.session.coordinator.membership
        clocks = {member.worker: member.clock for member in membership.active.values()}
        if clocks:
            assert max(clocks.values()) - min(clocks.values()) <= self.mode.max_lead
            for waiting in self.made.waiting:
                worker = waiting.contribution.options.worker
                assert clocks[worker] + 1 - min(clocks.values()) > self.mode.max_lead

    @invariant()
    def what_waits_belongs_to_members(self) -> None:
        membership = self.made.session.coordinator.membership
        for waiting in self.made.waiting:
            assert membership.is_member(
                waiting.contribution.options.worker, waiting.contribution.options.member.epoch
            )
        for member in membership.active.values():
            waits = [w for w in self.made.waiting if w.contribution.options.worker == member.worker]
            assert bool(waits) == bool(member.waiting)


QUORUMS: list[tuple[int, int]] = []
"""Of each step of SYNC that waits for all: how many contributed, and how many members there were."""


@pytest.fixture(autouse=True)
def watch_quorums(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = aggregate_step.AggregateStep.commit

    def watch(change: aggregate_step.AggregateStep) -> None:
        session = change._session
        if change.has_changes and change._recorded is None and session is not None:
            spec = session.coordinator.spec
            assert isinstance(spec, CoordinationSync)
            if spec.replicas_to_aggregate is None:
                QUORUMS.append((len(change._shares), len(session.coordinator.membership.active)))
        commit(change)

    monkeypatch.setattr(aggregate_step.AggregateStep, "commit", watch)


def run(mode: str) -> None:
    machine = type("Machine", (Protocol,), {"mode": MODES[mode]})
    run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.mark.parametrize("mode", MODES)
def test_what_must_hold_holds(mode: str) -> None:
    run(mode)


def quorum_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sync, "quorum", lambda self, gathered: max(1, gathered.count + gathered.awaited - 1))


def answer_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = StepDeduplication.remember_result

    def forgetful(self: StepDeduplication, worker: str, *arguments: Any) -> None:
        if worker != "b":
            remember(self, worker, *arguments)

    monkeypatch.setattr(StepDeduplication, "remember_result", forgetful)


def old_epochs_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Membership.check_and_renew

    def careless(self: Membership, worker: str, epoch: int) -> Member:
        member = self.active.get(worker)
        return check(self, worker, epoch if member is None else member.epoch)

    monkeypatch.setattr(Membership, "check_and_renew", careless)


def use_bound_of_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(self: Bounded, offer: Any, members: Any) -> Decision:
        fastest = max(member.clock for member in members)
        leads = offer.member.clock + 1 - fastest > self._spec.max_lead
        return Decision(Action.WAIT if leads else Action.APPLY)

    monkeypatch.setattr(Bounded, "decide", decide)


def waits_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "release_worker", lambda self, worker: None)


def expiry_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Coordinated.make

    def careless(self: Coordinated, change: Any) -> Any:
        done, kept = make(self, change), self.records
        if change.kind == "end_memberships" and kept:
            kept[:] = [payload for payload in kept if b'"end_memberships"' not in payload]
        return done

    monkeypatch.setattr(Coordinated, "make", careless)


BUGS = {
    "quorum_too_small": (quorum_too_small, "sync"),
    "answer_not_remembered": (answer_not_remembered, "sync"),
    "old_epochs_accepted": (old_epochs_accepted, "async"),
    "use_bound_of_fastest": (use_bound_of_fastest, "bounded"),
    "waits_forgotten": (waits_forgotten, "bounded"),
    "expiry_not_recorded": (expiry_not_recorded, "sync"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, mode = BUGS[bug]
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        run(mode)
