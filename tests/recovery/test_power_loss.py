"""The power fails at a sync: what was acknowledged before it is there, and nothing half done."""

from __future__ import annotations

import random
import threading
from functools import partial
from pathlib import Path

import pytest

from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import Request
from tests.recovery.keeping import House, bits, house, run
from tests.support.power import ForgetfulDisk
from tests.support.tiers import slow_unless

POLICY = SnapshotPolicy(generations=2, segment_bytes=3000, session_records=6, journal_bytes=8000)

State = dict[str, bytes]


class Life:
    """What was acknowledged, and what each session was after each of its steps."""

    def __init__(self, root: Path, left: Path, seed: int) -> None:
        self.root, self.left = root, left
        self.rng, self.chance = random.Random(seed), random.Random(seed)
        self.turn = threading.Lock()
        self.disk = ForgetfulDisk(self.moment)
        self.history: dict[str, dict[int, State]] = {}
        self.acknowledged: dict[str, int] = {}
        self.failures: list[tuple[Path, dict[str, int]]] = []
        self.deleting = ""

    def moment(self) -> None:
        """A sync is about to be done, in any thread; now and then the power fails here."""
        with self.turn:
            if self.root.exists() and self.chance.random() < 0.3 and len(self.failures) < 60:
                target = self.left / str(len(self.failures))
                told = {name: step for name, step in self.acknowledged.items() if name != self.deleting}
                self.disk.leave(self.root, target, self.chance)
                self.failures.append((target, told))

    async def live(self) -> None:
        async with house(self.root, self.disk, POLICY) as made:
            sessions: dict[str, Session] = {}
            for number in range(120):
                await self._one(made, sessions, number)

    async def _one(self, made: House, sessions: dict[str, Session], number: int) -> None:
        name = self.rng.choice("abc")
        if name not in sessions:
            life = f"{name}{number}"
            self.history[life] = {}
            sessions[name] = made.create(life)
            self._acknowledge(life, sessions[name])
            return
        session = sessions[name]
        assert session.durability is not None
        if self.rng.random() < 0.05:
            self.deleting = session.id
            forget = partial(
                made.durability_manager.delete_session, session.durability, Request("gone", b"content")
            )
            await made.durability_manager.in_thread(forget)
            made.namespaces[""].store.delete(session.id)
            del sessions[name], self.acknowledged[session.id]
            self.deleting = ""
        elif self.rng.random() < 0.1:
            await made.durability_manager.save_session(session.durability, asked=Request())
        else:
            await made.step(session, number)
            self._acknowledge(session.id, session)

    def _acknowledge(self, life: str, session: Session) -> None:
        self.history[life][session.step] = bits(session)
        self.acknowledged[life] = session.step


@pytest.mark.parametrize("seed", slow_unless((0).__eq__, range(3)))
def test_acknowledged_steps_survive_a_power_failure(tmp_path: Path, seed: int) -> None:
    left = tmp_path / "left"
    left.mkdir()
    life = Life(tmp_path / "data", left, seed)
    run(life.live())
    assert len(life.failures) > 40
    for folder, told in life.failures:
        run(_compare(folder, told, life))


async def _compare(folder: Path, told: dict[str, int], life: Life) -> None:
    async with house(folder, policy=POLICY) as made:
        store = made.namespaces[""].store
        assert list((folder / "quarantine").iterdir()) == []
        assert not any(store.is_damaged(name) for name in life.history)
        for name, step in told.items():
            session = store.get(name)
            # One step at most was on its way beside those that were answered.
            assert session.step in (step, step + 1)
            assert bits(session) == life.history[name][session.step]
        for session in store.list_sessions():
            assert bits(session) == life.history[session.id][session.step]
