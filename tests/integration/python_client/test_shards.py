"""Shards of a data plan through the Python client."""

from __future__ import annotations

import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import errors

EXAMPLES = 11
SUM = optserve.CoordinationSync(aggregation=optserve.Aggregation.SUM)


def create_session(
    client: optserve.Client, coordination: optserve.Coordination | None = None, shard_size: int = 2
) -> optserve.SessionHandle:
    """A session whose parameters count in how many steps each example was."""
    optimizer = optserve.optimizers.SGD(learning_rate=1.0)
    plan = optserve.DataPlan(EXAMPLES, shard_size, seed=1, epochs=2)
    return client.create_session(
        {"w": np.zeros(EXAMPLES)}, optimizer, coordination=coordination, data_plan=plan
    )


def counting(numbers: Any) -> dict[str, np.ndarray]:
    gradient = np.zeros(EXAMPLES)
    np.subtract.at(gradient, list(numbers), 1)
    return {"w": gradient}


def test_workers_share_the_data_until_none_is_left(client: optserve.Client) -> None:
    session = create_session(client, SUM)  # 12 shards for 5 workers: the last steps have fewer contributions

    def train(worker: str) -> int:
        with session.join(worker) as member:
            return len([member.step(counting(shard.examples)) for shard in member.shards()])

    with ThreadPoolExecutor(5) as pool:
        assert sum(pool.map(train, "abcde")) == 12
    np.testing.assert_array_equal(session.pull()["w"], np.full(EXAMPLES, 2))
    state = session.get().data_plan
    assert state == optserve.DataPlanState(shard_count=12, completed=12, leased=0, epoch=2)
    assert state.finished


def test_a_step_completes_all_shards_since_the_last_one(client: optserve.Client) -> None:
    session = create_session(client)
    with session.join() as member:
        found: list[optserve.Shard] = []
        for shard in member.shards(ahead=3):
            found.append(shard)
            if len(found) == 5:
                member.step(counting(e for one in found for e in one.examples))
                found = []
        assert len(found) == 2  # it ended early, because no other worker can complete them
        member.step(counting(e for one in found for e in one.examples))
        assert list(member.shards()) == []
    np.testing.assert_array_equal(session.pull()["w"], np.full(EXAMPLES, 2))


def test_a_shard_is_yielded_again_if_its_step_is_not_applied(client: optserve.Client) -> None:
    session = create_session(client, SUM)
    with session.join() as member:
        shards = member.shards()
        first = next(shards)
        member.step(counting(first.examples))
        second = next(shards)
        dropped = member.step(counting(second.examples), parameters_step=0)
        assert dropped.outcome is optserve.StepOutcome.DROPPED
        assert next(shards) == second
        with pytest.raises(errors.InvalidArgument):
            member.step({"w": np.full(EXAMPLES, np.nan)})
        assert next(shards) == second
        assert member.step(counting(second.examples)).outcome is optserve.StepOutcome.APPLIED
        assert next(shards).number == second.number + 1


def test_shards_are_given_back(client: optserve.Client) -> None:
    session = create_session(client)
    with session.join("a") as a, session.join("b") as b:
        first = next(a.shards(ahead=3))
        a.release_shards()
        assert next(b.shards(ahead=0)) == first
        assert next(a.shards(ahead=0)).number == first.number + 1
        state = session.get().data_plan
        assert state is not None
        assert (state.leased, state.completed, state.finished) == (2, 0, False)


def test_a_session_without_a_plan_has_no_shards(client: optserve.Client) -> None:
    session = client.create_session({"w": np.zeros(1)}, "sgd")
    assert session.get().data_plan is None
    with session.join() as member, pytest.raises(errors.FailedPrecondition) as raised:
        next(member.shards())
    assert raised.value.reason is optserve.Reason.NO_DATA_PLAN


def test_examples_are_slices_of_the_callers_arrays(client: optserve.Client) -> None:
    session = create_session(client, shard_size=4)
    x, y = np.arange(EXAMPLES), -np.arange(EXAMPLES)
    with session.join() as member:
        for a, b in member.examples(x, y):
            np.testing.assert_array_equal(a, -b)
            member.step(counting(a))
        assert list(member.examples(x)) == []
    np.testing.assert_array_equal(session.pull()["w"], np.full(EXAMPLES, 2))


class IterableDataset:
    """Stands for that of PyTorch."""


@pytest.fixture
def worker_info(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What says that a process belongs to a DataLoader, if it is not empty."""
    info: list[object] = []
    data = types.SimpleNamespace(IterableDataset=IterableDataset, get_worker_info=lambda: info or None)
    for name, module in {"torch": None, "torch.utils": None, "torch.utils.data": data}.items():
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))  # type: ignore[misc]
    return info


def test_a_torch_dataset_yields_shards(client: optserve.Client, worker_info: list[object]) -> None:
    session = create_session(client)
    with session.join() as member:
        dataset = member.dataset(np.arange(EXAMPLES))
        assert isinstance(dataset, IterableDataset)
        for numbers in dataset:  # type: ignore[attr-defined]  # it stands for that of PyTorch
            member.step(counting(numbers))
        worker_info.append(0)
        with pytest.raises(RuntimeError, match="num_workers=0"):
            iter(dataset)  # type: ignore[call-overload]
    np.testing.assert_array_equal(session.pull()["w"], np.full(EXAMPLES, 2))


def test_pytorch_is_not_imported_before_it_is_used() -> None:
    text = "import sys, optserve; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", text], timeout=60).strip() == b"False"
