"""Workers whose server is killed at every place of a change: no contribution is lost or doubled."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from optserve_server.durability.snapshot_codec import decode_snapshot, encode_snapshot
from optserve_server.optimizers.adam import Adam
from optserve_server.storage.failpoints import VARIABLE
from optserve_server.storage.snapshot import Contents
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.recovery.test_failpoints import IS_RECORDED
from tests.service.coordination.support import Coordinated, bits
from tests.service.coordination.test_rounds import VALUES as ROUND_VALUES
from tests.service.coordination.test_rounds import changes, make_federated
from tests.service.sessions.support import parameters, session_of, spec_of, step
from tests.support.server import running_server

WORKERS = ("a", "b", "c")
VALUES: dict[str, np.ndarray] = {"w": np.linspace(-1, 1, 50, dtype=np.float32), "b": np.linspace(0, 1, 3)}
WAIT = 60.0


def gradient(worker: str, number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([ord(worker), number])
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in VALUES.items()}


class Training:
    """Three workers that step until the last step is set."""

    def __init__(self, address: str) -> None:
        self.client = optserve.connect(address, timeout=WAIT)
        self.session = self.client.create_session(
            VALUES, optserve.optimizers.Adam(), coordination=optserve.CoordinationSync(min_replicas=3)
        )
        self.members = [self.session.join(worker) for worker in WORKERS]
        self.reached, self.last = 0, 10**9
        self.lock = threading.Lock()

    def run(self, member: optserve.Member) -> None:
        number = 0
        while number < self.last:
            result = member.step(gradient(member.worker, number + 1), timeout=WAIT)
            number += 1
            assert (result.step, result.contributions, result.sequence) == (number, 3, number)
            with self.lock:
                self.reached = max(self.reached, number)

    def finish(self) -> None:
        with self.lock:
            self.last = self.reached + 3


@pytest.mark.slow
def test_a_killed_server_loses_and_doubles_no_contribution(tmp_path: Path, unused_port: int) -> None:
    flags: dict[str, Any] = {"port": unused_port, "data_dir": tmp_path / "data"}
    with ThreadPoolExecutor(len(WORKERS)) as pool:
        training: Training | None = None
        running: list[Any] = []
        for place in IS_RECORDED:
            # The joins, and some steps, are recorded before.
            with running_server(variables={VARIABLE: f"{place}:7"}, **flags) as server:
                if training is None:
                    training = Training(f"127.0.0.1:{unused_port}")
                    running = [pool.submit(training.run, member) for member in training.members]
                assert server.process.wait(WAIT) == -9, place
        assert training is not None
        with running_server(**flags):
            training.finish()
            for one in running:
                one.result(WAIT)
            found = training.session.pull()
            state = {worker.worker: worker for worker in training.session.workers()}
            for member in training.members:
                member.close()
            training.client.close()
    assert found.step == training.last > 3 * len(IS_RECORDED)
    assert [state[worker].contributions for worker in WORKERS] == [training.last] * 3
    alone = session_of(spec_of(Adam()), VALUES)
    for number in range(1, training.last + 1):
        a, b, c = (gradient(worker, number) for worker in WORKERS)
        step(alone, {n: (a[n] + b[n] + c[n]) / v.dtype.type(3) for n, v in VALUES.items()})
    assert bits({name: found[name] for name in VALUES}) == bits(parameters(alone))


@pytest.fixture
def open_round() -> Coordinated:
    made = make_federated(Adam(learning_rate=0.1), buffer_size=3)
    for position, worker in enumerate("ab"):
        made.contribute(worker, position + 1, 1, changes(1, 3)[position], 0)
    return made


def test_a_snapshot_has_members_and_the_open_round(open_round: Coordinated) -> None:
    session = open_round.session
    frozen = encode_snapshot(session, SPEC_TEXT)
    tensors = {tensor.name: tensor.get().copy() for tensor in frozen.tensors}
    again = decode_snapshot(Contents(frozen.metadata, tensors), SPEC_TEXT, "again", session.arenas.backend)
    assert again.coordinator.to_json() == session.coordinator.to_json()
    assert again.members_only
    again.coordinator.membership.clock = lambda: 0.0
    copied = Coordinated(replace(session.spec), ROUND_VALUES)
    copied.session = again
    for made in (open_round, copied):
        made.contribute("c", 3, 1, changes(1, 3)[2], 0)
    assert again.step == session.step == 1
    assert bits(copied.parameters()) == bits(open_round.parameters())


def test_snapshots_keep_the_round_and_copies_have_no_members(tmp_path: Path) -> None:
    def change(value: float) -> dict[str, np.ndarray]:
        return {name: np.full(array.shape, value, array.dtype) for name, array in VALUES.items()}

    def first_of(session: optserve.SessionHandle) -> float:
        return float(session.pull()["b"][0])

    with (
        running_server(data_dir=tmp_path / "data") as server,
        optserve.connect(server.address, timeout=WAIT) as client,
    ):
        optimizer = optserve.optimizers.SGD(learning_rate=1.0)
        session = client.create_session(VALUES, optimizer, coordination=optserve.CoordinationRounds(2))
        with session.join("a") as a, session.join("b") as b:
            a.step(change(2.0))
            snapshot = session.snapshots.create()
            forks = [session.snapshots.fork(), session.snapshots.fork(snapshot.step)]
            copies = [client.session(fork.name) for fork in forks]
            session.snapshots.export(tmp_path / "file")
            copies.append(client.import_session(tmp_path / "file"))
            b.step(change(4.0))
            assert (session.get().step, first_of(session)) == (1, 3.0)
            for copy in copies:
                assert copy.workers() == []
                with copy.join("b") as member:
                    member.step(change(6.0))
                assert (copy.get().step, first_of(copy)) == (1, 4.0)
            session.snapshots.restore(snapshot.step)
            assert {worker.worker for worker in session.workers()} == {"a", "b"}
            b.pull()
            b.step(change(8.0))
            assert (session.get().step, first_of(session)) == (1, 5.0)
            with pytest.raises(optserve.errors.RoundClosed):
                b.step(change(1.0), parameters_step=0)
