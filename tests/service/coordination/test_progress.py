"""If each worker does what the contract says, there is always a next step.

Workers that join, leave, crash, contribute, and send nothing but NaN, a server that restarts, and data
plans that come to their end. Whatever has happened, those that live get to the next step on their own: no
step waits for members that are gone, whose gradients are skipped, or that wait themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from optserve_server.coordination import contribution
from optserve_server.coordination.membership import Membership
from optserve_server.coordination.mode import Gathered
from optserve_server.coordination.rounds import Rounds
from optserve_server.coordination.sync import Sync
from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import (
    CoordinationAsync,
    CoordinationBounded,
    CoordinationRounds,
    CoordinationSpec,
    CoordinationSync,
)
from optserve_server.spec.data_plan import DataPlanSpec
from optserve_server.spec.session_spec import GradientSpec, NonFinitePolicy
from optserve_server.state.step_result import StepOutcome, StepResult
from tests.service.coordination.support import Coordinated, Waiting
from tests.service.sessions.support import spec_of

WORKERS = "abcd"
LEASE = 2.0
PLAN = DataPlanSpec(example_count=7, shard_size=1, epochs=1)
NAN: dict[str, np.ndarray] = {"w": np.full(1, np.nan)}
ONES: dict[str, np.ndarray] = {"w": np.ones(1)}

MODES: dict[str, tuple[CoordinationSpec, int]] = {
    "sync": (CoordinationSync(), 1),
    "sync-2-of-3": (CoordinationSync(min_replicas=2, replicas_to_aggregate=3), 2),
    "async": (CoordinationAsync(), 1),
    "bounded": (CoordinationBounded(max_lead=1), 1),
    "rounds": (CoordinationRounds(buffer_size=3), 1),
    "rounds-large": (CoordinationRounds(buffer_size=10), 1),
    "rounds-2": (CoordinationRounds(buffer_size=4, min_contributions=2), 2),
}
"""By name: the coordination, and the number of workers that it needs."""

SETTINGS = settings(
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass
class Worker:
    """A worker that runs.

    Attributes:
        epoch: of its membership.
        waiting: its last contribution.
        newer_than: the step that its pull waits to be exceeded; None if it does not pull.
        is_broken: whether its gradients are NaN.
    """

    epoch: int
    waiting: Waiting | None = None
    newer_than: int | None = None
    is_broken: bool = False


class Progress(RuleBasedStateMachine):
    """Workers that do what the contract says, until they are lost."""

    mode: CoordinationSpec
    least: int
    plan: DataPlanSpec | None = None

    @initialize()
    def begin(self) -> None:
        spec = spec_of(
            SGD(learning_rate=1.0),
            coordination=self.mode,
            data_plan=self.plan,
            gradient=GradientSpec(non_finite=NonFinitePolicy.SKIP),
        )
        self.made = Coordinated(spec, {"w": np.zeros(1)})
        self.running: dict[str, Worker] = {}

    @rule(worker=st.sampled_from(WORKERS))
    def join(self, worker: str) -> None:
        self.running[worker] = Worker(self.made.join(worker, LEASE).epoch)

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        if worker in self.running:
            self.made.leave(worker, self.running.pop(worker).epoch)

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        self.running.pop(worker, None)

    @rule(worker=st.sampled_from(WORKERS))
    def break_down(self, worker: str) -> None:
        """From now on, its gradients are NaN; at least as many as are needed stay whole."""
        whole = [name for name, one in self.running.items() if not one.is_broken]
        if worker in whole and len(whole) > self.least:
            self.running[worker].is_broken = True

    @rule(worker=st.sampled_from(WORKERS))
    def act(self, worker: str) -> None:
        """Does what the worker is to do next, if it does not wait."""
        one = self.running.get(worker)
        if one is None or (one.waiting is not None and one.waiting.outcome is None):
            return
        session, refused = self.made.session, one.waiting and one.waiting.outcome
        if isinstance(refused, DomainError):
            assert refused.reason in (Reason.FENCED, Reason.NOT_A_MEMBER), refused
            one = self.running[worker] = Worker(self.made.join(worker, LEASE).epoch)
        if one.newer_than is not None and session.step <= one.newer_than:
            return
        one.waiting = one.newer_than = None
        shards: list[int] = []
        if self.plan is not None:
            acquired = self.made.acquire(worker, one.epoch)
            if not acquired.shards:
                if acquired.is_finished:
                    self.leave(worker)
                return
            shards = [acquired.shards[0].number]
        self.contribute(worker, one, shards)

    def contribute(self, worker: str, one: Worker, shards: list[int]) -> None:
        step = self.made.session.step
        sequence = self.made.session.step_deduplication.next_sequence(worker)
        gradient = NAN if one.is_broken else ONES
        one.waiting = self.made.contribute(worker, one.epoch, sequence, gradient, step, shards=shards)
        found = one.waiting.outcome
        if isinstance(found, StepResult) and found.outcome is StepOutcome.ACCUMULATED:
            one.newer_than = step
        elif one.is_broken and shards:
            self.made.release(worker, one.epoch)

    @rule(halves=st.integers(1, 8))
    def pass_time(self, halves: int) -> None:
        """Half seconds in which those that run renew their leases."""
        for _ in range(halves):
            membership = self.made.session.coordinator.membership
            for worker, one in self.running.items():
                if membership.is_member(worker, one.epoch):
                    membership.check_and_renew(worker, one.epoch)
            self.made.now += 0.5
            self.made.settle()

    @rule()
    def restart(self) -> None:
        """Loses what waits: it was not answered, and is sent again."""
        self.made.restart()
        for one in self.running.values():
            if one.waiting is not None and one.waiting.outcome is None:
                one.waiting = None
        self.made.settle()

    @rule()
    def reconsider_waiting(self) -> None:
        """Those that run take a step within a lease, whatever happened to the others."""
        if self.is_finished():
            return
        while sum(not one.is_broken for one in self.running.values()) < self.least:
            self.join(next(w for w in WORKERS if w not in self.running or self.running[w].is_broken))
        before = self.position()
        for _ in range(2 + int(LEASE)):
            for worker in list(self.running):
                self.act(worker)
            if self.is_finished() or self.position() > before:
                return
            self.pass_time(2)
        raise AssertionError(f"no step after {before}")

    def position(self) -> int:
        """What grows when the training continues."""
        step: int = self.made.session.step
        return step

    def is_finished(self) -> bool:
        progress = self.made.session.coordinator.progress
        return progress is not None and progress.is_finished

    def teardown(self) -> None:
        """Training continues, and a plan comes to its end."""
        if not hasattr(self, "made"):
            return
        for _ in range(3 * PLAN.shard_count if self.plan else 3):
            self.reconsider_waiting()
        assert self.plan is None or self.is_finished()
        for worker in list(self.running):
            self.leave(worker)
        self.pass_time(2 * int(LEASE) + 2)
        gathered = self.made.session.coordinator.round
        assert gathered is None or gathered.count < self.least, "contributions were left behind"


def run(mode: str, plan: DataPlanSpec | None, max_examples: int = 12) -> None:
    spec, least = MODES[mode]
    machine = type("Machine", (Progress,), {"mode": spec, "least": least, "plan": plan})
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=max_examples))


@pytest.mark.parametrize("plan", [None, PLAN], ids=["", "plan"])
@pytest.mark.parametrize("mode", MODES)
def test_those_that_run_go_on(mode: str, plan: DataPlanSpec | None) -> None:
    run(mode, plan)


def wait_for_a_full_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_complete(self: Rounds, gathered: Gathered, now: float) -> bool:
        return gathered.count >= self._spec.buffer_size or now >= self.step_deadline(gathered)

    monkeypatch.setattr(Rounds, "is_step_ready", is_complete)


def wait_for_workers_without_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sync, "_minimum_count", lambda self, gathered: self._spec.min_replicas)


def wait_for_finite_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    count = contribution.count_contribution

    def careless(session: Any, result: StepResult, completed_shards: Any = ()) -> None:
        if result.outcome is not StepOutcome.SKIPPED:
            count(session, result, completed_shards)

    monkeypatch.setattr(contribution, "count_contribution", careless)


def wait_for_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "list_expired_members", lambda self: [])
    monkeypatch.setattr(Membership, "next_lease_expiry", lambda self: float("inf"))


BUGS = {
    "wait_for_a_full_buffer": (wait_for_a_full_buffer, "rounds-large", None),
    "wait_for_workers_without_shards": (wait_for_workers_without_shards, "sync-2-of-3", PLAN),
    "wait_for_finite_gradients": (wait_for_finite_gradients, "bounded", None),
    "skipped_in_sync": (wait_for_finite_gradients, "sync", None),
    "skipped_in_rounds": (wait_for_finite_gradients, "rounds-large", None),
    "wait_for_the_dead": (wait_for_the_dead, "sync", None),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_wait_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, mode, plan = BUGS[bug]
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="no step after"):
        run(mode, plan, max_examples=200)  # it ends with the first failure
