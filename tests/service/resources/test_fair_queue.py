"""Order of service of the weighted fair queue, and of the threads, turns and groups that use it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve_server.resources.fair_queue import FairQueue
from optserve_server.resources.fair_threads import FairThreads
from optserve_server.rpc.context.loop_turns import BYTES_PER_UNIT, UNITS_PER_ITERATION, LoopTurns


@dataclass(eq=False)
class Named:
    name: str
    weight: float = 1.0


def serve(queue: FairQueue[int], costs: dict[str, float], count: int) -> str:
    """The flows of the next items, each charged with its flow's cost."""
    order = ""
    for _ in range(count):
        taken = queue.pop()
        assert taken is not None
        flow, _ = taken
        assert isinstance(flow, Named)
        queue.charge(flow, costs.get(flow.name, 1))
        order += flow.name
    return order


def test_a_flow_with_one_item_is_served_next_beside_one_with_many() -> None:
    queue, a, b = FairQueue[int](), Named("a"), Named("b")
    for number in range(1000):
        queue.push(a, number)
    assert serve(queue, {}, 500) == 500 * "a"
    queue.push(b, 0)
    assert "b" in serve(queue, {}, 2)


@pytest.mark.parametrize(("cost", "share"), [(1, 1), (3, 3), (10, 10)])
def test_costs_are_shared_equally(cost: int, share: int) -> None:
    queue, a, b = FairQueue[int](), Named("a"), Named("b")
    for number in range(1000):
        queue.push(a, number)
        queue.push(b, number)
    served = Counter(serve(queue, {"b": cost}, 11 * 40))
    assert served["a"] == pytest.approx(share * served["b"], abs=share)


def test_a_weight_is_a_share() -> None:
    queue, a, b = FairQueue[int](), Named("a", 3), Named("b", 1)
    for number in range(1000):
        queue.push(a, number)
        queue.push(b, number)
    assert Counter(serve(queue, {}, 400)) == {"a": 300, "b": 100}


def test_what_was_not_used_cannot_be_saved_up() -> None:
    queue, a, b = FairQueue[int](), Named("a"), Named("b")
    queue.push(b, 0)
    for number in range(2000):
        queue.push(a, number)
    serve(queue, {}, 1001)
    for number in range(1000):
        queue.push(b, number)
    assert Counter(serve(queue, {}, 100))["b"] <= 51


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 5)), min_size=1, max_size=60))
def test_items_of_a_flow_keep_their_order_and_none_is_lost(items: list[tuple[int, float]]) -> None:
    queue, flows = FairQueue[int](), [Named(str(number), 1 + number) for number in range(4)]
    for number, (of, _) in enumerate(items):
        queue.push(flows[of], number)
    got: dict[object, list[int]] = {}
    while (taken := queue.pop()) is not None:
        flow, number = taken
        got.setdefault(flow, []).append(number)
        queue.charge(flow, items[number][1])
    assert len(queue) == 0
    for one, numbers in got.items():
        assert numbers == [n for n, (of, _) in enumerate(items) if flows[of] is one]


class Gates:
    """Work that each waits until it is let go, in the order in which it was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._open: Counter[str] = Counter()

    def work(self, name: str) -> None:
        with self._changed:
            self.begun.append(name)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open[name] > 0, 20)
            self._open[name] -= 1

    def let_go(self, name: str) -> None:
        with self._changed:
            self._open[name] += 1
            self._changed.notify_all()

    def wait_for(self, *names: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: sorted(self.begun) == sorted(names), 20), self.begun


def test_a_flow_cannot_hold_every_thread() -> None:
    threads, gates, a, b = FairThreads(2, "test"), Gates(), Named("a"), Named("b")
    try:
        for _ in range(6):
            threads.submit(a, lambda: gates.work("a"))
        gates.wait_for("a", "a")
        threads.submit(b, lambda: gates.work("b"))
        gates.wait_for("a", "a", "b")
        threads.submit(b, lambda: gates.work("b"))
        gates.let_go("a")
        gates.wait_for("a", "a", "b", "b")  # before those of a, which were there first
    finally:
        for _ in range(6):
            gates.let_go("a")
            gates.let_go("b")
        threads.close(wait=True)


def test_work_that_was_cancelled_is_not_begun() -> None:
    threads, gates, a = FairThreads(1, "test"), Gates(), Named("a")
    try:
        first = threads.submit(a, lambda: gates.work("first"))
        gates.wait_for("first")
        second = threads.submit(a, lambda: gates.work("second"))
        third = threads.submit(a, lambda: gates.work("third"))
        second.cancel()
        gates.let_go("first")
        gates.wait_for("first", "third")
        gates.let_go("third")
        assert (first.result(20), third.result(20), second.cancelled()) == (None, None, True)
    finally:
        threads.close(wait=True)
    late: Future[None] = threads.submit(a, lambda: None)
    assert late.cancelled()


def test_the_loop_serves_namespaces_in_turn() -> None:
    """Twenty tasks of one namespace and one of another: the one waits for one other message at a time."""
    a, b, order = Named("a"), Named("b"), list[str]()

    async def live() -> None:
        turns = LoopTurns()

        async def handle(flow: Named, count: int) -> None:
            for _ in range(count):
                turn = turns.take(flow)
                if turn is not None:
                    await turn
                order.append(flow.name)
                await asyncio.sleep(0)

        await asyncio.gather(*(handle(a, 20) for _ in range(20)), handle(b, 20))

    asyncio.run(live())
    between = "".join(order).strip("a").split("b")
    assert max(map(len, between)) <= 2 * UNITS_PER_ITERATION
    assert Counter(order) == {"a": 400, "b": 20}


def test_long_messages_are_more_than_short_ones() -> None:
    a, b, order = Named("a"), Named("b"), list[str]()

    async def live() -> None:
        turns = LoopTurns()

        async def handle(flow: Named, count: int, byte_count: int) -> None:
            for _ in range(count):
                turn = turns.take(flow, byte_count)
                if turn is not None:
                    await turn
                order.append(flow.name)
                await asyncio.sleep(0)

        long = [handle(a, 10, 3 * BYTES_PER_UNIT) for _ in range(4)]
        await asyncio.gather(*long, *(handle(b, 10, 0) for _ in range(4)))

    asyncio.run(live())
    assert Counter(order[:40])["b"] > 3 * Counter(order[:40])["a"] - 8


def test_a_turn_whose_task_has_gone_is_passed_on() -> None:
    async def live() -> None:
        turns, a, b = LoopTurns(), Named("a"), Named("b")
        assert turns.take(a) is None
        assert [turns.take(b), turns.take(a)] == [None, None]
        gone, waiting = turns.take(a), turns.take(b)
        assert isinstance(gone, asyncio.Future)
        assert isinstance(waiting, asyncio.Future)
        gone.cancel()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(live())


def test_a_namespace_alone_needs_no_turns() -> None:
    async def live() -> None:
        turns, a = LoopTurns(), Named("a")
        assert [turns.take(a) for _ in range(100)] == [None] * 100
        assert turns.alone is a

    asyncio.run(live())
