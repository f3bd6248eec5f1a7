"""Coroutines that go on to their end, whatever becomes of the call that waits for them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from optserve_server.rpc.execution import shielded_coroutine
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine

T = TypeVar("T")
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="")


class DefectError(Exception):
    """What a coroutine raises."""


async def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """A caller, which can be cancelled."""
    return await ShieldedCoroutine(coroutine)


def run(work: Coroutine[Any, Any, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The result of a coroutine, and what the event loop logged; nothing may be left running."""
    logged: list[dict[str, Any]] = []

    async def watch() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        result = await asyncio.wait_for(work, 10)
        await asyncio.sleep(0)
        gc.collect()  # a future whose exception was never retrieved is logged when it is freed
        return result

    result = asyncio.run(watch())
    assert not shielded_coroutine._waiting
    return result, logged


async def until(event: asyncio.Event, steps: list[str], error: Exception | None = None) -> str:
    """Waits for an event, and then for two turns of the event loop."""
    steps.append("begun")
    await event.wait()
    for _ in range(2):
        await asyncio.sleep(0)
    steps.append("done")
    if error is not None:
        raise error
    return "result"


def test_what_waits_for_nothing_ends_at_once() -> None:
    async def work() -> str:
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)

        async def at_once() -> str:
            return "result"

        result = await ShieldedCoroutine(at_once())
        assert not turns, "no other callback has had a turn"
        return result

    assert run(work()) == ("result", [])


def test_an_error_at_once_is_raised_to_the_caller() -> None:
    async def work() -> None:
        async def at_once() -> None:
            raise DefectError

        with pytest.raises(DefectError):
            await ShieldedCoroutine(at_once())

    assert run(work()) == (None, [])


@pytest.mark.parametrize("error", [None, DefectError()])
def test_the_outcome_of_what_waits_reaches_the_caller(error: Exception | None) -> None:
    async def work() -> object:
        event, steps = asyncio.Event(), list[str]()
        asyncio.get_running_loop().call_later(0.01, event.set)
        try:
            outcome: object = await ShieldedCoroutine(until(event, steps, error))
        except DefectError as raised:
            outcome = raised
        assert steps == ["begun", "done"]
        return outcome

    assert run(work()) == (error or "result", [])


@pytest.mark.parametrize("error", [None, DefectError()])
def test_it_goes_on_when_its_caller_is_cancelled(error: Exception | None) -> None:
    """Its error has no caller then, and asyncio does not log it as never retrieved."""

    async def work() -> None:
        event, steps = asyncio.Event(), list[str]()
        caller = asyncio.create_task(complete(until(event, steps, error)))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        del caller
        gc.collect()  # nothing but the module holds it now
        assert steps == ["begun"]
        event.set()
        while shielded_coroutine._waiting:
            await asyncio.sleep(0)
        assert steps == ["begun", "done"]

    assert run(work()) == (None, [])


def test_a_lock_is_given_back_by_what_was_left_alone() -> None:
    """As a session's is, whose step was begun by a client that has gone."""

    async def work() -> list[str]:
        lock, event, order = asyncio.Lock(), asyncio.Event(), list[str]()

        async def lock_and_note(name: str) -> None:
            async with lock:
                await event.wait()
                order.append(name)

        callers = [asyncio.create_task(complete(lock_and_note(name))) for name in ("a", "b", "c")]
        await asyncio.sleep(0.01)
        callers[0].cancel()  # holds it
        callers[1].cancel()  # waits for it
        await asyncio.sleep(0.01)
        assert lock.locked()
        event.set()
        await callers[2]
        assert not lock.locked()
        return order

    assert run(work()) == (["a", "b", "c"], [])


def test_it_sees_the_variables_of_its_caller_to_its_end() -> None:
    async def work() -> list[str]:
        event, seen = asyncio.Event(), list[str]()

        async def note_name() -> None:
            seen.append(NAME.get())
            await event.wait()
            seen.append(NAME.get())

        async def caller() -> None:
            NAME.set("caller")
            await ShieldedCoroutine(note_name())

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        event.set()
        await task
        return seen

    assert run(work()) == (["caller", "caller"], [])


def test_one_may_wait_for_another() -> None:
    """As a request that is answered once waits for the change that it makes."""

    async def work() -> str:
        event, steps = asyncio.Event(), list[str]()
        asyncio.get_running_loop().call_later(0.01, event.set)

        async def outer() -> str:
            return await ShieldedCoroutine(until(event, steps))

        return await ShieldedCoroutine(outer())

    assert run(work()) == ("result", [])


def test_what_it_waits_for_may_be_cancelled() -> None:
    async def work() -> None:
        future = asyncio.get_running_loop().create_future()

        async def waiting() -> None:
            await future

        caller = asyncio.create_task(complete(waiting()))
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    assert run(work()) == (None, [])
