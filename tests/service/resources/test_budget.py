"""Budgets: nothing is held that was not counted, and nothing stays counted that is gone."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Budget, Charge, Kind
from optserve_server.state.read_parameters import Point, Pull
from optserve_server.state.session_state import MAX_INLINE_ELEMENTS
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step import Step
from optserve_server.stepping.step_plan import UnaryStep
from tests.service.sessions.support import session_of, spec_of, step


def server_and_namespace() -> tuple[Budget, Budget]:
    server = Budget({"max_memory_bytes": 100, "max_sessions": 2})
    return server, Budget({"max_bytes": 60}, server, "alice")


def test_memory_is_counted_for_as_long_as_a_view_of_it_lives() -> None:
    server, namespace = server_and_namespace()
    whole = namespace.allocate_array(48)
    view = whole[8:40].view(np.float32).reshape(2, 4)
    del whole
    assert (namespace.usage(Kind.IN_FLIGHT), server.usage(Kind.IN_FLIGHT)) == (48, 48)
    raw = memoryview(view)
    del view
    assert server.usage(Kind.IN_FLIGHT) == 48
    raw.release()
    assert (namespace.usage(Kind.IN_FLIGHT), server.usage(Kind.IN_FLIGHT)) == (0, 0)


def test_whose_limit_it_was_is_told_and_nothing_is_counted() -> None:
    server, namespace = server_and_namespace()
    with pytest.raises(DomainError) as caught:
        namespace.allocate_array(61)
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert caught.value.metadata == {"quota": "max_bytes", "namespace": "alice", "value": "60"}
    assert caught.value.retry_after is None, "it will never fit"
    server.reserve(Kind.RESIDENT, 70)
    with pytest.raises(DomainError) as caught:
        namespace.allocate_array(40)
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    assert caught.value.metadata == {"limit": "max_memory_bytes", "value": "100"}
    assert caught.value.retry_after == 0.5, "others may end"
    assert (namespace.usage(Kind.IN_FLIGHT), server.usage(Kind.IN_FLIGHT)) == (0, 0)
    assert (namespace.refused, server.refused) == (1, 1)


def test_a_charge_grows_shrinks_and_ends_with_its_owner() -> None:
    server, namespace = server_and_namespace()
    charge = Charge(namespace, Kind.RESIDENT, 20)
    charge.raise_to(50)
    charge.raise_to(30)
    assert server.usage(Kind.RESIDENT) == 50
    with pytest.raises(DomainError):
        charge.raise_to(61)
    assert charge.amount == 50
    charge.lower_to(10)
    assert namespace.usage(Kind.RESIDENT) == 10
    del charge
    assert (namespace.usage(Kind.RESIDENT), server.usage(Kind.RESIDENT)) == (0, 0)
    with pytest.raises(DomainError):
        Charge(namespace, Kind.RESIDENT, 61)
    assert server.usage(Kind.RESIDENT) == 0


def test_threads_never_hold_more_than_there_is() -> None:
    budget = Budget({"max_bytes_in_flight": 1000})

    def take(_: int) -> int:
        most = 0
        for _ in range(300):
            try:
                held = budget.allocate_array(300)
            except DomainError:
                continue
            most = max(most, budget.usage(Kind.IN_FLIGHT))
            del held
        return most

    with ThreadPoolExecutor(8) as pool:
        assert 300 <= max(pool.map(take, range(8))) <= 900
    assert budget.usage(Kind.IN_FLIGHT) == 0


@pytest.mark.parametrize("count", [3, MAX_INLINE_ELEMENTS + 1], ids=["small", "large"])
@pytest.mark.parametrize("pull", [None, Pull(None, None, Point.PARAMETERS)], ids=["no reply", "reply"])
def test_a_closed_session_goes_with_its_last_user(count: int, pull: Pull | None) -> None:
    """And not with a collection: its memory is counted until then."""
    values = {"w": np.ones(count, np.float32)}
    session = session_of(spec_of(), values)
    unary = UnaryStep.get_or_make(session, [NamedArray("w", values["w"])], (), pull)
    Step(session, unary.staging, StepOptions()).prepare(session).commit(unary.plan.make_reply(unary.staging))
    unary.cache_plan()
    step(session, values)
    gone = weakref.ref(session)
    gc.collect()
    gc.disable()
    try:
        session.close()
        del session, unary
        assert gone() is None
    finally:
        gc.enable()
