"""What is left of a change wherever the server is killed on the way from its check to its answer.

The directory is copied where the process would die: that is what the kernel keeps of a process that
is killed. `make crash` kills real servers at the same places.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optserve_server.durability.change_records import PushChange, ReportChange, RestoreChange, UpdateChange
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.state.session_change import Request
from optserve_server.storage import failpoints
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.recovery.keeping import House, house, run, snapshot_bytes

Make = Callable[[House, Session], Awaitable[object]]
REQUEST = Request("key", b"content")


async def push(made: House, session: Session) -> None:
    staging = session.allocate_staging(("b",), None)
    staging.array(staging.tensors[0])[:] = np.arange(3.0)
    await made.change(session, PushChange(staging, reset_state=True, request=REQUEST))


async def update(made: House, session: Session) -> None:
    spec = replace(session.spec, optimizer=Chosen(SGD(learning_rate=0.25)))
    await made.change(session, UpdateChange(made.namespaces[""].store, spec, request=REQUEST))


async def report(made: House, session: Session) -> None:
    await made.change(session, ReportChange({"loss": 2.0}, request=REQUEST))


async def restore(made: House, session: Session) -> None:
    assert session.durability is not None
    (file,) = session.durability.folder.snapshots()
    contents = made.durability_manager.catalog.read_snapshot(file)
    await made.change(session, RestoreChange(contents, SPEC_TEXT, request=REQUEST))


CHANGES: Mapping[str, Make] = {
    "step": lambda made, session: made.step(session, 7, worker="w", sequence=2),
    "push": push,
    "update": update,
    "report": report,
    "restore": restore,
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


def die_at(place: str, root: Path, at_death: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies a directory where the process would be killed."""

    def die(pid: int, number: int) -> None:
        if not at_death.exists():
            shutil.copytree(root, at_death)

    monkeypatch.setattr(failpoints, "_armed", failpoints._Armed(place))
    monkeypatch.setattr(failpoints, "armed", True)
    monkeypatch.setattr(os, "kill", die)


@pytest.mark.parametrize("place", IS_RECORDED)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_there_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    change, at_death = CHANGES[kind], tmp_path / "at death"

    async def live() -> tuple[bytes, bytes]:
        async with house(tmp_path / "data") as made:
            session = await begin_session(made)
            before = snapshot_bytes(session)
            die_at(place, tmp_path / "data", at_death, monkeypatch)
            await change(made, session)
            monkeypatch.undo()
            return before, snapshot_bytes(session)

    async def again() -> tuple[bytes, bytes, bool]:
        async with house(at_death) as made:
            session = made.namespaces[""].store.get("a")
            found = snapshot_bytes(session)
            assert session.durability is not None
            known = session.durability.requests.find_answer(REQUEST) is not None
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


async def create(made: House, _: Session) -> None:
    await asyncio.to_thread(made.create, "b", request=REQUEST)


async def delete(made: House, session: Session) -> None:
    assert session.durability is not None
    await asyncio.to_thread(made.durability_manager.delete_session, session.durability, REQUEST)


async def save(made: House, session: Session) -> None:
    assert session.durability is not None
    await made.durability_manager.save_session(session.durability, asked=REQUEST)


async def drop(made: House, session: Session) -> None:
    assert session.durability is not None
    files = [file for file in session.durability.folder.snapshots() if file.step == 0]
    await made.durability_manager.delete_snapshots(session.durability, files, REQUEST)


DIRECTORY_CHANGES: Mapping[str, Make] = {"create": create, "delete": delete, "save": save, "drop": drop}


def files_of(root: Path) -> list[str]:
    """The sessions and snapshots of a directory."""
    return sorted(str(path.relative_to(root)) for path in (root / "sessions").rglob("*.safetensors"))


@pytest.mark.parametrize("place", IS_RECORDED)
@pytest.mark.parametrize("kind", DIRECTORY_CHANGES)
def test_a_change_of_the_directory_is_there_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    change, root, at_death = DIRECTORY_CHANGES[kind], tmp_path / "data", tmp_path / "at death"

    async def live() -> tuple[list[str], list[str]]:
        async with house(root) as made:
            session = await begin_session(made)
            if kind == "drop":
                assert session.durability is not None
                await made.durability_manager.save_session(session.durability)
            before = files_of(root)
            die_at(place, root, at_death, monkeypatch)
            await change(made, session)
            monkeypatch.undo()
            return before, files_of(root)

    async def again() -> tuple[list[str], list[str], bool]:
        async with house(at_death) as made:
            found = files_of(at_death)
            known = made.namespaces[""].requests.find_answer(REQUEST) is not None
            if not known:
                await change(made, made.namespaces[""].store.get("a"))
            return found, files_of(at_death), known

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
