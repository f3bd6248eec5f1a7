"""What is left of a change wherever the server is killed on the way from its check to its answer.

The directory is copied where the process would die: that is what the kernel keeps of a process that
is killed. `make crash` kills real servers at the same places.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optserve_server.durability.change_records import PushChange, ReportChange, UpdateChange
from optserve_server.hyper import Chosen
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.state.change import Request
from optserve_server.storage import failpoints
from tests.recovery.keeping import House, house, run, snapshot_bytes

Make = Callable[[House, Session], Awaitable[object]]
REQUEST = Request("key", b"content")


async def push(made: House, session: Session) -> None:
    staging = session.stage(("b",), None)
    staging.array(staging.tensors[0])[:] = np.arange(3.0)
    await made.change(session, PushChange(staging, reset_state=True, request=REQUEST))


async def update(made: House, session: Session) -> None:
    spec = replace(session.spec, optimizer=Chosen(SGD(learning_rate=0.25)))
    await made.change(session, UpdateChange(made.namespaces[""].store, spec, request=REQUEST))


async def report(made: House, session: Session) -> None:
    await made.change(session, ReportChange({"loss": 2.0}, request=REQUEST))


CHANGES: Mapping[str, Make] = {
    "step": lambda made, session: made.step(session, 7, worker="w", sequence=2),
    "push": push,
    "update": update,
    "report": report,
}

IS_RECORDED = {
    "before-journal-write": False,
    "during-journal-write": False,
    "after-journal-write": True,
    "before-journal-fsync": True,
    "after-journal-fsync": True,
    "before-apply": True,
    "after-apply": True,
    "before-ack": True,
}
"""Whether the change is there again, by where the process was killed."""


async def begin_session(made: House) -> Session:
    """A session that has stepped, and watches its loss."""
    session = made.create("a")
    plateau = ReduceOnPlateauSpec(monitor="loss", patience=0)
    spec = replace(session.spec, reduce_on_plateau=plateau)
    await made.change(session, UpdateChange(made.namespaces[""].store, spec))
    await made.step(session, 1, worker="w", sequence=1)
    await made.change(session, ReportChange({"loss": 1.0}))
    return session


@pytest.mark.parametrize("place", IS_RECORDED)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_there_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    change, at_death = CHANGES[kind], tmp_path / "at death"

    def die(pid: int, number: int) -> None:
        if not at_death.exists():
            shutil.copytree(tmp_path / "data", at_death)

    async def live() -> tuple[bytes, bytes]:
        async with house(tmp_path / "data") as made:
            session = await begin_session(made)
            before = snapshot_bytes(session)
            monkeypatch.setattr(failpoints, "_armed", failpoints._Armed(place))
            monkeypatch.setattr(failpoints, "armed", True)
            monkeypatch.setattr(os, "kill", die)
            await change(made, session)
            monkeypatch.undo()
            return before, snapshot_bytes(session)

    async def again() -> tuple[bytes, bytes, bool]:
        async with house(at_death) as made:
            session = made.namespaces[""].store.get("a")
            found = snapshot_bytes(session)
            assert session.durability is not None
            known = any(one.request == REQUEST for one in session.durability.answered)
            if kind == "step":
                result = await made.step(session, 7, worker="w", sequence=2)
                known = result.replayed
            elif not known:
                await change(made, session)
            return found, snapshot_bytes(session), known

    before, after = run(live())
    found, settled, known = run(again())
    assert before != after
    assert found == (after if IS_RECORDED[place] else before)
    assert known == IS_RECORDED[place]
    assert settled == after


def test_every_place_of_a_change_is_known() -> None:
    """Those of files that are replaced, and after an answer, are in no change's way."""
    others = {
        "after-ack",
        "before-temp-write",
        "during-temp-write",
        "after-temp-write",
        "before-rename",
        "after-rename",
        "before-directory-fsync",
        "after-directory-fsync",
    }
    assert set(failpoints.NAMES) == others | IS_RECORDED.keys()
