"""The data plan: each example is in exactly one recorded step of each epoch, whatever is lost on the way."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from optserve_server.coordination.contribution import Contribution
from optserve_server.coordination.data_progress import DataProgress
from optserve_server.coordination.shard_order import index_at
from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import (
    Aggregation,
    CoordinationAsync,
    CoordinationRounds,
    CoordinationSolo,
    CoordinationSpec,
    CoordinationSync,
)
from optserve_server.spec.data_plan import DataPlanSpec
from optserve_server.spec.session_spec import GradientSpec, NonFinitePolicy
from optserve_server.state.session_change import Change
from optserve_server.state.step_result import StepOutcome, StepResult
from optserve_server.storage.record_payload import unpack_payload
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.service.coordination.support import Coordinated, Waiting
from tests.service.sessions.support import spec_of

ZEROS: dict[str, np.ndarray] = {"w": np.zeros(2)}
ONES: dict[str, np.ndarray] = {"w": np.ones(2)}


def make_session(
    plan: DataPlanSpec, coordination: CoordinationSpec | None = None, **spec: Any
) -> Coordinated:
    made = spec_of(SGD(learning_rate=1.0), coordination=coordination, data_plan=plan, **spec)
    return Coordinated(made, ZEROS)


def progress_of(made: Coordinated) -> DataProgress:
    return made.session.coordinator.require_data_plan()


def rejection(waiting: Waiting) -> DomainError:
    assert isinstance(waiting.outcome, DomainError)
    return waiting.outcome


def outcome(waiting: Waiting) -> StepOutcome:
    assert isinstance(waiting.outcome, StepResult)
    return waiting.outcome.outcome


def order_by_the_contract(count: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch's shards as the contract's text states it, over all numbers at once."""

    def mix(z: Any) -> Any:
        z = z ^ (z >> np.uint64(30))
        z = z * np.uint64(0xBF58476D1CE4E5B9)
        z = z ^ (z >> np.uint64(27))
        z = z * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    h = next(h for h in range(1, 32) if 4**h >= count)
    p = np.arange(4**h, dtype=np.uint64)
    a, b = p // np.uint64(2**h), p % np.uint64(2**h)
    for r in range(6):
        k = mix(np.array([(seed + 0x9E3779B97F4A7C15 * (6 * epoch + r + 1)) % 2**64], np.uint64))
        a, b = b, a ^ (mix(k + b) % np.uint64(2**h))
    f = (a * np.uint64(2**h) + b).tolist()
    order = []
    for place in range(count):
        place = f[place]
        while place >= count:
            place = f[place]
        order.append(place)
    return order


@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_the_order_of_an_epoch_is_that_of_the_contract(count: int, seed: int, epoch: int) -> None:
    order = [index_at(place, count, seed, epoch) for place in range(count)]
    assert sorted(order) == list(range(count))
    assert order == order_by_the_contract(count, seed, epoch)


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = [
        tuple(index_at(place, 100, seed, epoch) for place in range(100))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert tuple(range(100)) not in orders


@pytest.mark.parametrize(("examples", "size"), [(10, 3), (9, 3), (1, 5)])
def test_the_shards_of_an_epoch_cover_each_example_once(examples: int, size: int) -> None:
    plan = DataPlanSpec(example_count=examples, shard_size=size, epochs=2)
    progress = DataProgress(plan)
    for epoch in (0, 1):
        shards = [progress.shard(epoch * plan.shards_per_epoch + at) for at in range(plan.shards_per_epoch)]
        assert {shard.epoch for shard in shards} == {epoch}
        assert sorted(e for s in shards for e in range(s.begin, s.end)) == list(range(examples))


class Leases(RuleBasedStateMachine):
    """Leases against a model that stores the state of every shard."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = DataProgress(DataPlanSpec(example_count=17, shard_size=2, epochs=2))
        self.model: dict[int, str] = dict.fromkeys(range(18), "")

    def list_held(self, worker: str) -> list[int]:
        return [number for number, state in self.model.items() if state == worker]

    @rule(worker=st.sampled_from("abc"), count=st.integers(0, 6))
    def acquire(self, worker: str, count: int) -> None:
        numbers = self.progress.next_shards(count)
        assert numbers == [number for number, state in self.model.items() if not state][:count]
        self.progress.lease_shards(worker, numbers)
        self.model.update(dict.fromkeys(numbers, worker))

    @rule(worker=st.sampled_from("abc"), data=st.data())
    def complete(self, worker: str, data: st.DataObject) -> None:
        numbers = data.draw(st.lists(st.sampled_from(self.list_held(worker) or [0]), unique=True))
        if self.list_held(worker):
            self.progress.check_shards_held(worker, numbers)
            self.progress.complete_shards(worker, numbers)
            self.model.update(dict.fromkeys(numbers, "complete"))

    @rule(worker=st.sampled_from("abc"), keep=st.integers(0, 3))
    def return_shards(self, worker: str, keep: int) -> None:
        numbers = self.list_held(worker)[keep:]
        self.progress.return_shards(worker, numbers if keep else None)
        self.model.update(dict.fromkeys(numbers, ""))

    @rule()
    def end_leases(self) -> None:
        self.progress.return_all_shards()
        self.model = {n: state if state == "complete" else "" for n, state in self.model.items()}

    @rule()
    def restart(self) -> None:
        facts = json.loads(json.dumps(self.progress.to_json()))
        self.progress = DataProgress(self.progress.plan)
        self.progress.restore(facts)

    @rule(worker=st.sampled_from("abc"), number=st.integers(-1, 20))
    def complete_another(self, worker: str, number: int) -> None:
        if self.model.get(number) != worker:
            with pytest.raises(DomainError) as raised:
                self.progress.check_shards_held(worker, [number])
            assert raised.value.reason is Reason.SHARD_NOT_HELD
            assert raised.value.field == "options.completed_shards[0]"

    @invariant()
    def agrees(self) -> None:
        states = list(self.model.values())
        for worker in "abc":
            assert sorted(self.progress.list_held(worker)) == self.list_held(worker)
        assert self.progress.completed_count == states.count("complete")
        assert self.progress.leased_count == sum(state in ("a", "b", "c") for state in states)
        assert self.progress.is_finished == (states.count("complete") == 18)
        first = next((n for n, state in self.model.items() if state != "complete"), 18)
        assert self.progress.first_incomplete_epoch == first // 9


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    "facts",
    [
        {"next": 3, "returned": [3], "leased": {}},
        {"next": 3, "returned": [1], "leased": {"a": [1]}},
        {"next": 3, "returned": [0.5], "leased": {}},
        {"next": 6, "returned": [], "leased": {}},
    ],
)
def test_facts_of_no_plan_are_rejected(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="next"):
        DataProgress(DataPlanSpec(example_count=5, shard_size=1)).restore(facts)


class Died(Exception):
    """The process was killed."""


class Killed(Coordinated):
    """Is killed at every n-th change: before its record, after it, or after it was applied."""

    interval = 0
    count = 0
    deaths = 0

    def make(self, change: Change[Any, Any]) -> Any:
        prepared = change.prepare(self.session)
        if not prepared.has_changes:
            return change.execute_decision() if isinstance(change, Contribution) else prepared.commit()
        self.count += 1
        is_last = self.interval > 0 and self.count % self.interval == 0
        place = self.deaths % 3
        self.deaths += is_last
        if is_last and place == 0:
            raise Died
        self.records.append(b"".join(bytes(piece) for piece in change.encode_record(SPEC_TEXT)))
        if is_last and place == 1:
            raise Died
        done = change.execute_decision() if isinstance(change, Contribution) else prepared.commit()
        if is_last:
            raise Died
        return done

    def survive(self, act: Any) -> Any:
        for _ in range(5):
            try:
                return act()
            except Died:
                self.restart()
        raise AssertionError("it is killed again and again")


def list_completed(made: Coordinated) -> list[int]:
    """The shards that recorded steps complete."""
    found = []
    for payload in made.records:
        facts, _ = unpack_payload(memoryview(payload))
        if facts["kind"] == "contribution" and facts["decision"] is not None:
            found += facts["member"][3]
        for share in facts.get("shares", ()):
            found += share[5]
    return found


MODES = {
    "solo": None,
    "async": CoordinationAsync(),
    "sync": CoordinationSync(aggregation=Aggregation.SUM),
    "rounds": CoordinationRounds(buffer_size=3, max_staleness=10**9),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_million_examples_are_each_in_one_recorded_step(mode: str) -> None:
    plan = DataPlanSpec(example_count=10**6, shard_size=2500, seed=3)
    spec = spec_of(SGD(learning_rate=1.0), coordination=MODES[mode], data_plan=plan)
    made = Killed(spec, ZEROS)
    made.interval = 29
    rng = np.random.default_rng(0)
    epochs = {worker: made.survive(lambda worker=worker: made.join(worker)).epoch for worker in "abc"}
    sequences = dict.fromkeys("abc", 0)

    def contribute_all(members: dict[str, tuple[int, ...]]) -> None:
        at = made.session.step
        waiting = [
            made.contribute(worker, epochs[worker], sequences[worker], ONES, at, 1, shards)
            for worker, shards in members.items()
        ]
        assert all(isinstance(one.outcome, StepResult) for one in waiting)

    for _ in range(2000):
        held: dict[str, tuple[int, ...]] = {}
        for worker in "abc":
            count = int(rng.integers(1, 4))
            acquired = made.survive(
                lambda worker=worker, count=count: made.acquire(worker, epochs[worker], count)
            )
            held[worker] = tuple(shard.number for shard in acquired.shards)
        if progress_of(made).is_finished:
            break
        if rng.random() < 0.1:  # the last of them is lost with its shards, and returns
            epochs["c"] = made.survive(lambda: made.join("c")).epoch
            del held["c"]
        members = {worker: shards[:2] for worker, shards in held.items() if shards}
        for worker in members:
            sequences[worker] += 1
        # Under SYNC, a step of fewer members would wait for that worker.
        if mode == "sync" and "c" not in held:
            sequences["c"] += 1
            members["c"] = ()
        at = made.session.step
        try:
            contribute_all(members)
        except Died:
            made.restart()
            repeated = [
                made.contribute(worker, epochs[worker], sequences[worker], ONES, at, 1, shards)
                for worker, shards in members.items()
            ]
            assert all(isinstance(one.outcome, StepResult) for one in repeated)
    assert progress_of(made).is_finished
    assert made.deaths >= 9
    used = np.zeros(plan.example_count, np.int32)
    for number in list_completed(made):
        shard = progress_of(made).shard(number)
        used[shard.begin : shard.end] += 1
    assert (used == 1).all()
    made.restart()
    assert progress_of(made).is_finished


def test_a_repeat_completes_once_and_returns_the_stored_result() -> None:
    made = make_session(DataPlanSpec(example_count=4, shard_size=1))
    epoch = made.join("a").epoch
    first, second = (shard.number for shard in made.acquire("a", epoch, 2).shards)
    made.contribute("a", epoch, 1, ONES, shards=[first])
    again = made.contribute("a", epoch, 1, ONES, shards=[first])
    assert isinstance(again.outcome, StepResult)
    assert again.outcome.replayed
    other = made.contribute("a", epoch, 1, ONES, shards=[second])
    assert rejection(other).reason is Reason.SEQUENCE_REUSED
    late = rejection(made.contribute("a", epoch, 2, ONES, shards=[second, first]))
    assert (late.reason, late.field) == (Reason.SHARD_NOT_HELD, "options.completed_shards[1]")
    twice = rejection(made.contribute("a", epoch, 2, ONES, shards=[second, second]))
    assert (twice.reason, twice.field) == (Reason.CONFLICTING_FIELDS, "options.completed_shards[1]")
    assert (made.session.step, progress_of(made).completed_count) == (1, 1)
    assert [shard.number for shard in made.acquire("a", epoch).shards] == [second]


def test_shards_of_a_worker_that_left_expired_or_joined_again_go_to_others() -> None:
    made = make_session(DataPlanSpec(example_count=6, shard_size=1))
    epochs = {worker: made.join(worker).epoch for worker in "abcd"}
    held = {w: [s.number for s in made.acquire(w, epochs[w]).shards] for w in "abc"}
    made.leave("a", epochs["a"])
    made.join("b")
    made.now = 9.0
    assert [shard.number for shard in made.acquire("d", epochs["d"]).shards] == held["a"]
    made.now = 11.0
    made.settle()
    assert progress_of(made).returned == held["b"] + held["c"]
    made.restart()
    found = [shard.number for shard in made.acquire("d", epochs["d"], 5).shards]
    assert found == [0, 1, 2, 3, 4]
    fenced = rejection(made.contribute("b", epochs["b"], 1, ONES, shards=held["b"]))
    assert fenced.reason is Reason.FENCED


def test_a_contribution_that_is_dropped_or_skipped_keeps_its_shards() -> None:
    made = make_session(
        DataPlanSpec(example_count=6, shard_size=1),
        CoordinationSync(),
        gradient=GradientSpec(non_finite=NonFinitePolicy.SKIP),
    )
    epoch = made.join("a").epoch
    numbers = [shard.number for shard in made.acquire("a", epoch, 3).shards]
    assert outcome(made.contribute("a", epoch, 1, ONES, 0, shards=numbers[:1])) is StepOutcome.APPLIED
    assert outcome(made.contribute("a", epoch, 2, ONES, 0, shards=numbers[1:])) is StepOutcome.DROPPED
    infinite = {"w": np.array([np.inf, 0.0])}
    assert outcome(made.contribute("a", epoch, 3, infinite, 1, shards=numbers[1:])) is StepOutcome.SKIPPED
    for _ in range(2):
        assert [shard.number for shard in made.acquire("a", epoch).shards] == numbers[1:]
        made.restart()
    assert outcome(made.contribute("a", epoch, 4, ONES, 1, shards=numbers[1:])) is StepOutcome.APPLIED
    assert progress_of(made).completed_count == 3


def test_a_worker_without_shards_is_not_waited_for() -> None:
    made = make_session(DataPlanSpec(example_count=3, shard_size=1), CoordinationSync())
    a, b = made.join("a").epoch, made.join("b").epoch
    mine = [shard.number for shard in made.acquire("a", a, 3).shards]
    waiting = made.contribute("a", a, 1, ONES, 0, shards=mine[:1])
    assert waiting.outcome is None
    acquired = made.acquire("b", b)
    assert (acquired.shards, acquired.is_finished) == ([], False)
    assert outcome(waiting) is StepOutcome.APPLIED
    woken = []
    assert acquired.wait is not None
    acquired.wait.add_done_callback(lambda: woken.append(True))
    assert outcome(made.contribute("a", a, 2, ONES, 1, shards=mine[1:2])) is StepOutcome.APPLIED
    assert not woken
    made.release("a", a, mine[2])
    assert woken
    assert [shard.number for shard in made.acquire("b", b).shards] == mine[2:]
    assert made.contribute("a", a, 3, ONES, 2).outcome is None


def test_shards_of_a_waiting_contribution_are_not_released() -> None:
    made = make_session(DataPlanSpec(example_count=3, shard_size=1), CoordinationSync(min_replicas=2))
    a, b = made.join("a").epoch, made.join("b").epoch
    mine = [shard.number for shard in made.acquire("a", a, 2).shards]
    waiting = made.contribute("a", a, 1, ONES, 0, shards=mine[:1])
    made.release("a", a)
    assert progress_of(made).returned == mine[1:]
    made.contribute("b", b, 1, ONES, 0)
    assert outcome(waiting) is StepOutcome.APPLIED
    assert progress_of(made).completed_count == 1


def test_shards_need_a_plan() -> None:
    made = Coordinated(spec_of(SGD(learning_rate=1.0), coordination=CoordinationSolo()), ZEROS)
    epoch = made.join("a").epoch
    with pytest.raises(DomainError) as raised:
        made.acquire("a", epoch)
    assert raised.value.reason is Reason.NO_DATA_PLAN
    assert rejection(made.contribute("a", epoch, 1, ONES, shards=[0])).reason is Reason.NO_DATA_PLAN


def test_a_plan_keeps_its_data_and_may_get_more_epochs() -> None:
    made = make_session(DataPlanSpec(example_count=4, shard_size=2, epochs=2))
    epoch, session = made.join("a").epoch, made.session
    numbers = [shard.number for shard in made.acquire("a", epoch, 3).shards]
    made.contribute("a", epoch, 1, ONES, shards=numbers)
    spec = spec_of(SGD(learning_rate=0.5))
    session.update_spec(spec)
    assert session.spec.data_plan == made.spec.data_plan
    for field, plan in {
        "shard_size": DataPlanSpec(example_count=4, shard_size=1, epochs=2),
        "seed": DataPlanSpec(example_count=4, shard_size=2, seed=1, epochs=2),
        "epochs": DataPlanSpec(example_count=4, shard_size=2),
    }.items():
        with pytest.raises(DomainError) as raised:
            session.update_spec(spec_of(SGD(learning_rate=0.5), data_plan=plan))
        assert (raised.value.reason, raised.value.field) == (
            Reason.CONFLICTING_FIELDS,
            f"spec.data_plan.{field}",
        )
    session.update_spec(spec_of(SGD(), data_plan=DataPlanSpec(example_count=4, shard_size=2, epochs=3)))
    assert [shard.number for shard in made.acquire("a", epoch, 9).shards] == [3, 4, 5]


def test_more_shards_than_can_be_numbered_are_rejected() -> None:
    with pytest.raises(DomainError) as raised:
        DataPlanSpec(example_count=2**40, shard_size=1, epochs=2**30)
    assert (raised.value.reason, raised.value.field) == (Reason.OUT_OF_RANGE, "epochs")
