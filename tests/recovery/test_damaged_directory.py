"""Any file of a data directory torn or flipped: sessions are restored exactly, or reported as damaged."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.state.session_change import Request
from optserve_server.storage.directory_format import DirectoryError
from tests.recovery.keeping import House, bits, house, run
from tests.service.storage.test_damage import HOWS, damage

POLICY = SnapshotPolicy(generations=2, segment_bytes=2000, session_records=5, journal_bytes=1 << 30)
SESSIONS = (("", "a"), ("", "b"), ("team", "a"))


@functools.cache
def directory() -> tuple[dict[str, bytes], dict[tuple[str, str], dict[str, bytes]]]:
    """The files that a killed server has left, and what its sessions were."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        async def live() -> dict[tuple[str, str], dict[str, bytes]]:
            async with house(root, policy=POLICY) as made:
                modes = (None, DurabilityMode.SNAPSHOT, None)
                found = [
                    made.create(name, ns, mode) for (ns, name), mode in zip(SESSIONS, modes, strict=True)
                ]
                for number in range(1, 8):
                    for session in found:
                        await made.step(session, number, worker="w", sequence=number)
                for session in found:
                    assert session.durability is not None
                    await made.durability_manager.save_session(session.durability)
                    if session is not found[1]:
                        for number in range(8, 11):
                            await made.step(session, number)
                assert found[2].durability is not None
                await made.durability_manager.save_session(
                    found[2].durability, asked=Request("one", b"content")
                )
                for path in root.rglob("*"):
                    if path.is_file() and path.stat().st_size:
                        files[str(path.relative_to(root))] = path.read_bytes()
                return {key: bits(session) for key, session in zip(SESSIONS, found, strict=True)}

        files: dict[str, bytes] = {}
        return files, run(live())


def recover(files: dict[str, bytes]) -> dict[tuple[str, str], dict[str, bytes] | None]:
    """What a server finds: None for what it says is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name in ("sessions", "journal", "quarantine", "trash"):
            Path(folder, name).mkdir(exist_ok=True)

        async def look() -> dict[tuple[str, str], dict[str, bytes] | None]:
            found: dict[tuple[str, str], dict[str, bytes] | None] = {}
            async with house(Path(folder), policy=POLICY) as made:
                for namespace, name in SESSIONS:
                    store = made.namespaces[namespace].store
                    found[namespace, name] = None if store.is_damaged(name) else bits(store.get(name))
            return found

        return run(look())


def test_nothing_damaged() -> None:
    files, expected = directory()
    assert recover(files) == expected
    assert sum(name.endswith(".journal") for name in files) > 2
    assert sum(name.endswith(".safetensors") for name in files) == 7
    assert "journal/positions" in files


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), HOWS, st.integers(0, 1 << 20), st.integers(1, 300))
def test_one_file_damaged(data: st.DataObject, how: str, place: int, count: int) -> None:
    files, expected = directory()
    name = data.draw(st.sampled_from(sorted(files)))
    try:
        found = recover({**files, name: damage(files[name], how, place, count)})
    except DirectoryError:
        assert name in ("VERSION", "journal/positions")
        return
    for key, value in found.items():
        assert value is None or value == expected[key]
    if name.startswith("sessions/"):
        hit = name.split("/")[1]
        others = [key for key in SESSIONS if hit != (f"{key[0]}@{key[1]}" if key[0] else key[1])]
        assert all(found[key] is not None for key in others)
    if "auto-000000000007" in name and "team@a" in name:
        assert found["team", "a"] is not None  # restored from an earlier snapshot and the journal


def test_a_folder_that_is_missing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Until the session is deleted, or the folder is there again."""

    async def live(work: Callable[[House], object]) -> None:
        async with house(tmp_path) as made:
            work(made)

    run(live(lambda made: [made.create(name, namespace) for namespace, name in SESSIONS]))
    (tmp_path / "sessions" / "team@a").rename(tmp_path / "away")
    for _ in range(2):
        caplog.clear()
        run(live(lambda made: _is_damaged(made, "team", "a")))
        assert "the folder of team@a is missing" in caplog.text
    (tmp_path / "away").rename(tmp_path / "sessions" / "team@a")
    run(live(lambda made: made.namespaces["team"].store.get("a")))
    shutil.rmtree(tmp_path / "sessions" / "a")
    run(live(lambda made: made.durability_manager.delete_quarantined("a", Request("gone", b"content"))))
    run(live(lambda made: made.create("a")))


def _is_damaged(made: House, namespace: str, name: str) -> None:
    with pytest.raises(DomainError) as caught:
        made.namespaces[namespace].store.get(name)
    assert caught.value.reason is Reason.SESSION_DAMAGED


def test_what_is_set_aside_stays_there_until_it_is_deleted(tmp_path: Path) -> None:
    async def first() -> dict[str, bytes]:
        async with house(tmp_path) as made:
            session = made.create("a")
            made.create("b")
            for number in range(3):
                await made.step(session, number)
            return bits(session)

    before = run(first())
    for path in (tmp_path / "sessions" / "a").glob("*.safetensors"):
        shutil.copy(path, tmp_path / path.name)
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):

        async def again() -> None:
            async with house(tmp_path) as made:
                store = made.namespaces[""].store
                assert len(store) == 1
                with pytest.raises(DomainError) as caught:
                    store.get("a")
                assert caught.value.reason is Reason.SESSION_DAMAGED
                with pytest.raises(DomainError) as caught:
                    made.create("a")
                assert caught.value.reason is Reason.SESSION_EXISTS

        run(again())
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert {path.suffix for path in aside.iterdir()} >= {".json", ".safetensors", ".journal"}
    # An operator who has a copy of the file puts the folder back.
    for path in tmp_path.glob("*.safetensors"):
        path.rename(aside / path.name)
    for path in aside.glob("*.journal"):
        path.unlink()
    aside.rename(tmp_path / "sessions" / "a")

    async def recover() -> dict[str, bytes]:
        async with house(tmp_path) as made:
            return bits(made.namespaces[""].store.get("a"))

    assert run(recover()) == before
