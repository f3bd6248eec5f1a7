"""A data plan whose server is killed, or whose session is restored or forked.

The gradient of a shard is -1 at its examples, and the rule is p -= g: the parameters count in how many
steps each example was.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from optserve_server.storage.failpoints import VARIABLE
from tests.recovery.test_failpoints import IS_RECORDED
from tests.support.server import running_server

EXAMPLES = 200
PLAN = optserve.DataPlan(EXAMPLES, 2, seed=5)
WAIT = 60.0
SUM = optserve.CoordinationSync(aggregation=optserve.Aggregation.SUM)


def create_session(client: optserve.Client, coordination: optserve.Coordination) -> optserve.SessionHandle:
    optimizer = optserve.optimizers.SGD(learning_rate=1.0)
    zeros = {"w": np.zeros(EXAMPLES)}
    return client.create_session(zeros, optimizer, coordination=coordination, data_plan=PLAN)


def train(member: optserve.Member, limit: int = EXAMPLES) -> None:
    """Takes a step for each shard, at most ``limit``."""
    for shard in member.shards(ahead=2):
        gradient = np.zeros(EXAMPLES)
        gradient[shard.begin : shard.end] = -1
        member.step({"w": gradient})
        limit -= 1
        if not limit:
            return


@pytest.mark.slow
@pytest.mark.parametrize("coordination", [optserve.CoordinationAsync(), SUM], ids=["async", "sync"])
def test_each_example_is_in_one_step_wherever_the_server_is_killed(
    tmp_path: Path, unused_port: int, coordination: optserve.Coordination
) -> None:
    flags: dict[str, Any] = {"port": unused_port, "data_dir": tmp_path / "data"}
    with ThreadPoolExecutor(3) as pool:
        running: list[Any] = []
        members: list[optserve.Member] = []
        for place in IS_RECORDED:
            with running_server(variables={VARIABLE: f"{place}:7"}, **flags) as server:
                if not running:
                    client = optserve.connect(f"127.0.0.1:{unused_port}", timeout=WAIT)
                    session = create_session(client, coordination)
                    lost = session.join("lost", lease=1.0)
                    assert next(lost.shards(ahead=2)).number == 0
                    lost.close()
                    members = [session.join(worker) for worker in "abc"]
                    running = [pool.submit(train, member) for member in members]
                assert server.process.wait(WAIT) == -9, place
        with running_server(**flags):
            for one in running:
                one.result(WAIT)
            state, found = session.get().data_plan, session.pull()["w"]
            for member in members:
                member.close()
            client.close()
    np.testing.assert_array_equal(found, np.ones(EXAMPLES))
    assert state == optserve.DataPlanState(shard_count=100, completed=100, leased=0, epoch=1)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[optserve.Client]:
    with running_server(data_dir=tmp_path / "data") as server, optserve.connect(server.address) as client:
        yield client


def progress(session: optserve.SessionHandle) -> tuple[int, int]:
    state = session.get().data_plan
    assert state is not None
    return state.completed, state.leased


def test_a_restored_session_goes_on_where_the_snapshot_was(client: optserve.Client) -> None:
    session = create_session(client, optserve.CoordinationAsync())
    with session.join() as member:
        train(member, 10)
        snapshot = session.snapshots.create()
        train(member, 10)
        assert progress(session)[0] == 20
        session.snapshots.restore(snapshot.step)
        assert progress(session) == (10, 0)
        with pytest.raises(optserve.errors.ShardNotHeld) as raised:
            train(member)
        assert raised.value.applied is False
        member.pull()
        train(member)
    assert progress(session) == (100, 0)
    np.testing.assert_array_equal(session.pull()["w"], np.ones(EXAMPLES))


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_a_fork_has_the_progress_and_no_leases(client: optserve.Client, from_snapshot: bool) -> None:
    session = create_session(client, optserve.CoordinationAsync())
    with session.join() as member:
        train(member, 7)
        step = session.snapshots.create().step if from_snapshot else None
        other = client.session(session.snapshots.fork(step).name)
        assert progress(other) == (7, 0)
        for trained in (session, other):
            with trained.join() as one:
                if trained is session:
                    member.release_shards()
                train(one)
            np.testing.assert_array_equal(trained.pull()["w"], np.ones(EXAMPLES))
            assert progress(trained) == (100, 0)
