"""Changes of small sessions that are held in memory alone: they wait for nothing but their turn."""

from __future__ import annotations

import asyncio

import numpy as np

from optserve_server.rpc.execution.execution import Execution
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step import Step
from tests.service.sessions.support import session_of, spec_of

START = {"w": np.ones(3, np.float32)}


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
        assert await take_step() == 2, "nobody holds the lock, and what waits for it has not begun"
        assert await waiting == 3
        await asyncio.sleep(0)
        assert session.step == 4
        assert not session.lock.is_held
        execution.close()

    asyncio.run(live())
