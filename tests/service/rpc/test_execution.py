"""Execution of work on sessions: in turn, to its end once begun, and not for a call that has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from optserve_server.optimizers.sgd import SGD
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.execution.execution import Execution
from optserve_server.sessions.session import Session
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step import Step
from tests.service.sessions.support import session_of, spec_of

START = {"w": np.ones(3, np.float32)}
SMALL, LARGE = 4, 2_000_000
Ask = Callable[[Execution, Session, Call], Awaitable[object]]


def take_step(execution: Execution, session: Session, call: Call) -> Awaitable[object]:
    staging = session.allocate_staging(None, None)
    for tensor in staging.tensors:
        staging.array(tensor)[:] = 1
    return execution.commit(session, Step(session, staging, StepOptions()), Step.commit, call)


def read(execution: Execution, session: Session, call: Call) -> Awaitable[object]:
    def work() -> None:
        session.activity.used = -1.0

    return execution.run_exclusively(session, work, call)


def is_done(session: Session) -> bool:
    return session.step > 0 or session.activity.used == -1.0


async def begin(asked: Awaitable[object]) -> object:
    return await asked


@pytest.mark.parametrize("ask", [take_step, read])
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_what_waits_for_a_session_is_not_begun_for_a_call_that_ended(
    ask: Ask, leaves: bool, count: int
) -> None:
    async def run() -> None:
        execution, call = Execution(1), Call("a", "method")
        session = session_of(spec_of(SGD()), {"w": np.zeros(count, np.float32)})
        await session.lock.acquire()
        task = asyncio.create_task(begin(ask(execution, session, call)))
        await asyncio.sleep(0)
        if leaves:
            task.cancel()
            call.has_ended = True
        session.lock.release()
        await asyncio.wait({task})
        async with session.lock:
            assert is_done(session) is not leaves
        execution.close()

    asyncio.run(run())


@pytest.mark.parametrize("ask", [take_step, read])
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_what_waits_for_a_thread_is_not_begun_for_a_call_that_ended(ask: Ask, leaves: bool) -> None:
    async def run() -> None:
        execution, call, opened = Execution(1), Call("a", "method"), threading.Event()
        session = session_of(spec_of(SGD()), {"w": np.zeros(LARGE, np.float32)})
        blocking = asyncio.create_task(execution.in_thread(opened.wait, session.budget))
        await asyncio.sleep(0)
        task = asyncio.create_task(begin(ask(execution, session, call)))
        while not session.lock.is_held:
            await asyncio.sleep(0)
        if leaves:
            task.cancel()
            call.has_ended = True
        opened.set()
        await asyncio.wait({task, blocking})
        async with session.lock:
            assert is_done(session) is not leaves
        execution.close()

    asyncio.run(run())


def test_a_step_waits_while_the_session_is_used_and_is_taken_if_its_caller_leaves() -> None:
    async def live() -> None:
        execution, session = Execution(1), session_of(spec_of(), START)

        async def take_step() -> int:
            staging = session.stage_arrays([NamedArray("w", START["w"])])
            step = Step(session, staging, StepOptions())
            return (await execution.commit(session, step, Step.commit)).step

        assert await take_step() == 1
        async with session.lock:
            assert session.lock.is_held
            waiting, leaving = (asyncio.create_task(take_step()) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.sleep(0)
            assert leaving.done()
            assert session.step == 1
        assert not session.lock.is_held
        assert await take_step() == 2, "the lock is free, and what waits for it has not begun"
        assert await waiting == 3
        await asyncio.sleep(0)
        assert session.step == 4
        assert not session.lock.is_held
        execution.close()

    asyncio.run(live())
