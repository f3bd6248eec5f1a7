"""Steps over asyncio: a hundred sessions at once, streams, cancellation, deadlines, lost connections."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import aio, errors
from tests.integration.aio.conftest import INITIAL, ONE, sgd
from tests.integration.python_client.proxy import Proxy
from tests.support.server import RunningServer, running_server

SESSIONS, STEPS = 100, 5
LARGE = 6_000_000
"""Elements of a tensor that no buffer between client and server holds."""
ADAM = optserve.optimizers.Adam(learning_rate=0.01)


def gradient(session: int, step: int) -> dict[str, Any]:
    rng = np.random.default_rng((session, step))
    return {"w": rng.normal(size=1000).astype(np.float32)}


def initial(session: int) -> dict[str, Any]:
    return {"w": np.full(1000, session, np.float32)}


async def until(condition: Any) -> None:
    """Waits for what the server is about to do."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


def test_a_hundred_sessions_step_at_once_with_the_bits_of_threads(
    server: RunningServer, client: optserve.Client
) -> None:
    in_flight = most = 0

    async def train(session: aio.AsyncSessionHandle, number: int) -> bytes:
        nonlocal in_flight, most
        for step in range(STEPS):
            in_flight += 1
            most = max(most, in_flight)
            result = await session.step(gradient(number, step), pull=True)
            in_flight -= 1
        return result.parameters["w"].tobytes()

    async def main() -> list[bytes]:
        async with aio.connect(server.address) as connected:
            make = connected.create_session
            sessions = await asyncio.gather(*(make(initial(number), ADAM) for number in range(SESSIONS)))
            values = await asyncio.gather(*map(train, sessions, range(SESSIONS)))
            await asyncio.gather(*(session.delete() for session in sessions))
            return values

    values = asyncio.run(main())
    assert most == SESSIONS
    for number in range(SESSIONS):
        with client.create_session(initial(number), ADAM) as session:
            for step in range(STEPS):
                result = session.step(gradient(number, step), pull=True)
            assert result.parameters["w"].tobytes() == values[number]
            session.delete()


def test_a_stream_has_a_window_of_steps_in_flight(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            async with session.stream(pull=True, window=4) as stream:
                results = [result async for result in stream.steps([ONE] * 20)]
                assert [result.step for result in results] == list(range(1, 21))
                assert results[-1].parameters["w"].tolist() == [-20, -19, -18]
                pending = [await stream.submit(ONE) for _ in range(4)]
                assert [(await one).step for one in reversed(pending)] == [24, 23, 22, 21]
                assert all(one.done() for one in pending)
                assert (await stream.step(ONE, per_tensor_norms=True)).tensor_norms["w"] == np.sqrt(3)
                await stream.submit(ONE)
                await stream.flush()
            assert (await session.get()).step == 26
            async with session.stream(worker="named") as stream:
                assert (await stream.step(ONE)).sequence == 1
            async with session.stream(worker="named") as stream:
                assert (await stream.step(ONE)).sequence == 2
            with pytest.raises(RuntimeError, match="is closed"):
                await stream.step(ONE)
            await session.delete()

    asyncio.run(main())


def test_after_a_rejected_step_the_later_ones_are_abandoned(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            async with session.stream() as stream:
                bad = await stream.submit(ONE, expected_step=7)
                later = await stream.submit(ONE)
                with pytest.raises(errors.StepMismatch):
                    await bad
                with pytest.raises(errors.Abandoned):
                    await later
                assert (await stream.step(ONE)).step == 1
            await session.delete()

    asyncio.run(main())


def test_a_rejection_while_messages_are_sent_keeps_its_reason(server: RunningServer) -> None:
    """gRPC replaces the status of such a call by an internal error of its own, in one of three or more."""
    large = {"w": np.zeros(3_000_000)}

    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            for _ in range(30):
                async with session.stream() as stream:
                    pending = [await stream.submit(ONE, expected_step=7), await stream.submit(ONE)]
                    with pytest.raises(errors.StepMismatch):
                        await pending[0]
            await session.delete()
            session = await client.create_session(large, sgd())
            for _ in range(8):
                with pytest.raises(errors.StepMismatch):
                    await session.step(large, expected_step=7)
                with pytest.raises(errors.StepMismatch):
                    await session.push(large, expected_step=7)
            await session.delete()

    asyncio.run(main())


@pytest.mark.parametrize("same", [True, False])
def test_a_cancelled_step_is_settled_by_the_next_one(
    server: RunningServer, proxy: Proxy, client: optserve.Client, same: bool
) -> None:
    """The step is applied, its answer is held back, and its task is cancelled in the meantime."""

    async def main() -> None:
        async with aio.connect(proxy.address) as connected, aio.connect(server.address) as near:
            session = await connected.create_session(INITIAL, sgd())
            observer = await near.session(session)
            await session.step(ONE)
            proxy.answers.clear()
            lost = asyncio.create_task(session.step(ONE, pull=True))

            async def is_applied() -> bool:
                return (await observer.get()).step == 2

            await until(is_applied)
            lost.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lost
            proxy.answers.set()
            result = await session.step(ONE if same else {"w": np.full(3, 10.0)}, pull=True)
            assert (result.step, result.replayed) == ((2, True) if same else (3, False))
            assert result.parameters["w"].tolist() == ([-2, -1, 0] if same else [-12, -11, -10])
            assert (await session.step(ONE)).step == (3 if same else 4)
            await session.delete()

    asyncio.run(main())


def test_a_cancelled_upload_of_a_step_is_not_applied(server: RunningServer, proxy: Proxy) -> None:
    def gradients(seed: int) -> dict[str, Any]:
        return {"w": np.random.default_rng(seed).normal(size=LARGE).astype(np.float32)}

    async def main() -> None:
        async with aio.connect(proxy.address) as client, aio.connect(server.address) as near:
            zeros = {"w": np.zeros(LARGE, np.float32)}
            session = await client.create_session(zeros, sgd())
            await session.step(gradients(0))
            proxy.requests.clear()
            lost = asyncio.create_task(session.step(gradients(1)))
            await asyncio.sleep(0.3)
            lost.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lost
            proxy.requests.set()
            result = await session.step(gradients(2), pull=True)
            assert result.step == 2
            assert result.parameters["w"].tobytes() == (-gradients(0)["w"] - gradients(2)["w"]).tobytes()
            await (await near.session(session)).delete()

    asyncio.run(main())


def test_a_cancelled_wait_leaves_the_stream_whole(proxy: Proxy) -> None:
    async def main() -> None:
        async with aio.connect(proxy.address) as client:
            session = await client.create_session(INITIAL, sgd())
            async with session.stream(pull=True) as stream:
                await stream.step(ONE)
                proxy.answers.clear()
                pending = [await stream.submit(ONE) for _ in range(3)]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(pending[1].result(), 0.3)
                proxy.answers.set()
                assert [(await one).step for one in pending] == [2, 3, 4]
            assert (await session.get()).step == 4
            await session.delete()

    asyncio.run(main())


def test_a_deadline_leaves_the_step_open(proxy: Proxy) -> None:
    async def main() -> None:
        async with aio.connect(proxy.address) as client:
            session = await client.create_session(INITIAL, sgd())
            await session.step(ONE)
            proxy.answers.clear()
            with pytest.raises(errors.DeadlineExceeded, match=r"no answer came in 0\.3 s"):
                await session.step(ONE, timeout=0.3)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(session.step(ONE))
                await asyncio.sleep(0)
                with pytest.raises(errors.DeadlineExceeded, match="other steps took longer"):
                    await session.step(ONE, timeout=0.2)
                proxy.answers.set()
                assert (await waiting).step == 2
            with pytest.raises(errors.DeadlineExceeded):
                await session.pull(newer_than_step=9, timeout=0.2)
            await session.delete()

    asyncio.run(main())


def test_a_cut_connection_costs_no_step(proxy: Proxy) -> None:
    async def main() -> None:
        async with aio.connect(proxy.address) as client:
            session = await client.create_session(INITIAL, sgd())
            async with session.stream(window=3) as stream:
                for number in range(1, 31):
                    if number % 10 == 5:
                        proxy.cut()
                    assert (await stream.step(ONE)).step == number
            assert (await session.get()).step == 30
            await session.delete()

    asyncio.run(main())
    assert proxy.cuts == 3


def test_closing_ends_what_waits(proxy: Proxy) -> None:
    async def main() -> None:
        client = await aio.connect(proxy.address)
        session = await client.create_session(INITIAL, sgd())
        await session.step(ONE)
        proxy.answers.clear()
        waiting = asyncio.create_task(session.step(ONE))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(errors.Cancelled, match="the stream was closed"):
            await waiting
        with pytest.raises(RuntimeError, match="is closed"):
            await session.step(ONE)
        proxy.answers.set()

    asyncio.run(main())


def test_handles_that_are_dropped_leave_no_call(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            await session.step(ONE)
            before = len(asyncio.all_tasks())
            for number in range(30):
                other = await client.session(session)
                await other.step(ONE)
                if number % 2:  # its call has ended with an error
                    with pytest.raises(errors.StepMismatch):
                        await other.step(ONE, expected_step=999)
                del other

            async def is_settled() -> bool:
                gc.collect()
                return len(asyncio.all_tasks()) <= before

            await until(is_settled)
            await session.delete()

    asyncio.run(main())


def test_an_unreachable_server_is_diagnosed() -> None:
    async def main() -> None:
        async with aio.connect("127.0.0.1:1", timeout=0.5, retry=optserve.Retry(initial=0.01)) as client:
            with pytest.raises(errors.Unavailable, match=r"tried \d+ times .*: no server listens"):
                await client.health()

    asyncio.run(main())


def test_steps_go_on_over_a_kill(tmp_path: Path) -> None:
    """Twenty sessions step while the server is killed and another one takes its place."""
    settings = {"data_dir": tmp_path / "data", "unix_socket": tmp_path / "socket"}
    patient = optserve.Retry(attempts=200)

    async def train(session: aio.AsyncSessionHandle, number: int, half: asyncio.Barrier) -> list[int]:
        steps = []
        for step in range(20):
            if step == 10:
                await half.wait()
            steps.append((await session.step(gradient(number, step))).step)
        return steps

    async def main(first: RunningServer) -> None:
        async with aio.connect(f"unix:{tmp_path}/socket", retry=patient) as client:
            make = client.create_session
            sessions = await asyncio.gather(*(make(initial(number), ADAM) for number in range(20)))
            half = asyncio.Barrier(21)
            tasks = [asyncio.create_task(train(s, n, half)) for n, s in enumerate(sessions)]
            await half.wait()
            first.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(first.process.wait, 20)
            context = running_server("numpy", **settings)
            await asyncio.to_thread(context.__enter__)
            try:
                assert await asyncio.gather(*tasks) == [list(range(1, 21))] * 20
                calm = await make(initial(7), ADAM)
                for step in range(20):
                    await calm.step(gradient(7, step))
                expected = (await calm.pull())["w"].tobytes()
                assert (await sessions[7].pull())["w"].tobytes() == expected
            finally:
                await asyncio.to_thread(context.__exit__, None, None, None)

    with running_server("numpy", **settings) as first:
        asyncio.run(main(first))


def test_a_server_that_drains_is_waited_for(tmp_path: Path) -> None:
    """Calls that a stopping server cancels are made again, and not taken for cancelled tasks."""
    settings = {"data_dir": tmp_path / "data", "unix_socket": tmp_path / "socket", "grace_seconds": 0.2}

    async def main(first: RunningServer) -> None:
        async with aio.connect(f"unix:{tmp_path}/socket", retry=optserve.Retry(attempts=200)) as client:
            session = await client.create_session(INITIAL, sgd())
            waiting = asyncio.create_task(session.pull(newer_than_step=0))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(first.stop)
            context = running_server("numpy", **settings)
            await asyncio.to_thread(context.__enter__)
            try:
                assert (await session.step(ONE)).step == 1
                assert (await waiting).step == 1
            finally:
                await asyncio.to_thread(context.__exit__, None, None, None)

    with running_server("numpy", **settings) as first:
        asyncio.run(main(first))
