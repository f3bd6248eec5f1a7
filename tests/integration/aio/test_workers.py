"""Members over asyncio: contributions, leases that a task renews, shards of data."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import optserve
from optserve import aio, errors
from tests.integration.aio.conftest import ONE, sgd
from tests.support.server import RunningServer

INITIAL = {"w": np.zeros(3)}
SYNC = optserve.CoordinationSync(min_replicas=3)


def test_members_of_one_process_wait_for_each_other(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd(), coordination=SYNC)

            async def train(number: int) -> list[int]:
                async with session.join(f"w{number}") as member:
                    assert member.lease == 30
                    values = await member.pull()
                    assert values.step == member.parameters_step
                    return [(await member.step({"w": np.full(3, number + 1.0)})).step for _ in range(4)]

            assert await asyncio.gather(*map(train, range(3))) == [[1, 2, 3, 4]] * 3
            assert (await session.pull())["w"].tolist() == [-8] * 3  # four steps of a mean of 2
            assert len(await session.workers()) == 3
            await session.delete()

    asyncio.run(main())


def test_a_task_renews_the_lease_until_the_member_leaves(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd(), coordination=optserve.CoordinationSync())
            member = await session.join("idle", lease=0.6)
            await asyncio.sleep(1.5)
            (worker,) = await session.workers()
            assert worker.state is optserve.WorkerState.ACTIVE
            assert member.error is None
            await member.renew()
            again = await session.join("idle")
            with pytest.raises(errors.Fenced):
                await member.renew()
            with pytest.raises(errors.Fenced):
                async with member:
                    await member.step(ONE)
            await again.leave()
            (worker,) = await session.workers()
            assert worker.state is optserve.WorkerState.LEFT
            await session.delete()

    asyncio.run(main())


def test_each_shard_is_used_once(server: RunningServer) -> None:
    data = np.arange(64)
    plan = optserve.DataPlan(example_count=64, shard_size=8)

    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(
                INITIAL,
                sgd(),
                data_plan=plan,
                coordination=optserve.CoordinationAsync(),
            )
            seen: list[int] = []

            async def train(number: int) -> None:
                async with session.join(f"w{number}") as member:
                    async for examples in member.examples(data):
                        await member.step(ONE)
                        seen.extend(examples)

            async with session.join("fickle") as member:
                async for shard in member.shards(ahead=2):
                    assert len(shard) == 8
                    break
                await member.release_shards()
            await asyncio.gather(*map(train, range(3)))
            assert sorted(seen) == data.tolist()
            state = (await session.get()).data_plan
            assert state is not None
            assert state.finished
            await session.delete()

    asyncio.run(main())
