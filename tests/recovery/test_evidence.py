"""Files that are missing, swapped, copied or from elsewhere: what is not proved complete is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash

from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.errors import DomainError, Reason
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.state.session_change import Request
from optserve_server.storage.directory_format import FORMAT, DirectoryError
from tests.recovery.keeping import bits, house, run

POLICY = SnapshotPolicy(generations=2, segment_bytes=3000, journal_bytes=60_000)
STEPS = 20

State = dict[str, bytes]


@dataclass
class Used:
    """A data directory that a server has used and left.

    Attributes:
        root: the directory.
        states: what its sessions were.
    """

    root: Path
    states: dict[str, State]

    def live(self, steps: int = 0) -> dict[str, State | None]:
        """Starts a server, which steps b; returns what the sessions are, None for damaged ones."""

        async def work() -> dict[str, State | None]:
            async with house(self.root, policy=POLICY) as made:
                store = made.namespaces[""].store
                found = {name: None if store.is_damaged(name) else bits(store.get(name)) for name in "abc"}
                for number in range(steps):
                    session = store.get("b")
                    await made.step(session, number)
                    if number % 10 == 9:
                        assert session.durability is not None
                        await made.durability_manager.save_session(session.durability)
                return found

        return run(work())

    def tree(self) -> dict[str, bytes]:
        """Content of every file but the lock."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and path.name != "LOCK"
        }

    def snapshots(self, name: str) -> list[Path]:
        """Automatic snapshots of a session, the latest first."""
        return sorted((self.root / "sessions" / name).glob("auto-*"), reverse=True)

    @property
    def segments(self) -> list[Path]:
        return sorted((self.root / "journal").glob("*.journal"))


@pytest.fixture
def used(tmp_path: Path) -> Used:
    """Sessions a and b with a journal, and c without; the server was killed."""
    live, root = tmp_path / "live", tmp_path / "data"

    async def work() -> dict[str, State]:
        async with house(live, policy=POLICY) as made:
            sessions = {name: made.create(name) for name in "ab"}
            sessions["c"] = made.create("c", mode=DurabilityMode.SNAPSHOT)
            for number in range(STEPS):
                for session in sessions.values():
                    await made.step(session, number, worker="w", sequence=number + 1)
                    if number == STEPS // 2:
                        assert session.durability is not None
                        await made.durability_manager.save_session(session.durability)
            assert sessions["c"].durability is not None
            await made.durability_manager.save_session(sessions["c"].durability)
            assert sessions["a"].durability is not None
            await made.durability_manager.save_session(
                sessions["a"].durability, asked=Request("kept", b"content")
            )
            await made.durability_manager.save_session(sessions["a"].durability)
            for number in range(3):
                await made.step(sessions["a"], number)
            shutil.copytree(live, root)
            return {name: bits(session) for name, session in sessions.items()}

    return Used(root, run(work()))


def test_nothing_is_damaged(used: Used) -> None:
    assert used.live() == used.states
    assert used.live() == used.states


def test_a_session_that_is_put_back_has_every_acknowledged_step(
    used: Used, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the other sessions have done to the journal meanwhile."""
    broken = used.snapshots("a") + list((used.root / "sessions" / "a").glob("kept-*"))
    contents = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-1])
    assert used.live(steps=100)["a"] is None
    assert used.live(steps=100)["a"] is None
    assert "a is in quarantine" in caplog.text
    (aside,) = (used.root / "quarantine").glob("a.*")
    for path, data in zip(broken, contents, strict=True):
        (aside / path.name).write_bytes(data)
    shutil.copytree(used.root, used.root.with_name("without"))
    aside.rename(used.root / "sessions" / "a")
    assert used.live(steps=100)["a"] == used.states["a"]
    assert list((used.root / "sessions" / "a").glob("*.journal")) == []
    assert used.live()["a"] == used.states["a"]
    # Without the records it is not taken back to its snapshot.
    without = Used(used.root.with_name("without"), used.states)
    (aside,) = (without.root / "quarantine").glob("a.*")
    for path in aside.glob("*.journal"):
        path.unlink()
    aside.rename(without.root / "sessions" / "a")
    assert without.live()["a"] is None
    assert "were acknowledged and are missing" in caplog.text


def test_a_copy_of_a_missing_folder_is_completed_from_its_records(used: Used) -> None:
    (used.root / "sessions" / "a").rename(used.root.with_name("away"))
    assert used.live(steps=100)["a"] is None
    used.root.with_name("away").rename(used.root / "sessions" / "a")
    assert used.live(steps=100)["a"] == used.states["a"]
    assert used.live()["a"] == used.states["a"]


def remove_positions(used: Used) -> None:
    (used.root / "journal" / "positions").unlink()


def remove_segments(used: Used) -> None:
    for path in used.segments:
        path.unlink()


def remove_last_segment(used: Used) -> None:
    used.segments[-1].unlink()


def remove_journal(used: Used) -> None:
    remove_positions(used)
    remove_segments(used)


def take_segment_of_another_directory(used: Used) -> None:
    other = used.root.with_name("other")

    async def work() -> None:
        async with house(other, policy=POLICY) as made:
            await made.step(made.create("a"), 1)

    run(work())
    shutil.copy(next((other / "journal").glob("*.journal")), used.segments[0])


def take_positions_of_another_directory(used: Used) -> None:
    take_segment_of_another_directory(used)
    shutil.copy(used.root.with_name("other") / "journal" / "positions", used.root / "journal")


def swap_segments(used: Used) -> None:
    first, second = used.segments[:2]
    first_data, second_data = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_data)
    second.write_bytes(first_data)


@pytest.mark.parametrize(
    "damage",
    [
        remove_positions,
        remove_segments,
        remove_last_segment,
        remove_journal,
        take_segment_of_another_directory,
        take_positions_of_another_directory,
    ],
)
def test_a_directory_without_its_journal_is_refused_and_left_alone(
    used: Used, damage: Callable[[Used], None]
) -> None:
    damage(used)
    before = used.tree()
    with pytest.raises(DirectoryError, match="journal/"):
        used.live()
    assert used.tree() == before


def test_swapped_segments_lose_nothing_in_silence(used: Used) -> None:
    swap_segments(used)
    for name, state in used.live().items():
        assert state in (None, used.states[name])


def copy_to_another_id(used: Used) -> None:
    shutil.rmtree(used.root / "sessions" / "b")
    shutil.copytree(used.root / "sessions" / "a", used.root / "sessions" / "b")


def swap_folders(used: Used) -> None:
    a, b = (used.root / "sessions" / name for name in "ab")
    a.rename(b.with_name("x"))
    b.rename(a)
    a.with_name("x").rename(b)


def swap_all_files_but_manifests(used: Used) -> None:
    swap_folders(used)
    a, b = (used.root / "sessions" / name / "manifest.json" for name in "ab")
    a.rename(a.with_name("x"))
    b.rename(a)
    a.with_name("x").rename(b)


@pytest.mark.parametrize("damage", [copy_to_another_id, swap_folders, swap_all_files_but_manifests])
def test_files_of_another_session_are_not_taken(used: Used, damage: Callable[[Used], None]) -> None:
    damage(used)
    found = used.live()
    assert found["b"] is None
    assert found["a"] in (None, used.states["a"])
    assert found["c"] == used.states["c"]


def test_a_snapshot_of_another_session_is_not_taken(used: Used) -> None:
    mine, other = used.snapshots("b")[0], used.snapshots("a")[1]
    assert mine.name == other.name
    shutil.copy(other, mine)
    assert used.live() == used.states
    assert used.snapshots("b")[0].name == f"auto-{STEPS:012}-{STEPS}.safetensors"  # saved again


def test_removing_all_later_snapshots_takes_nothing_back(used: Used) -> None:
    used.snapshots("c")[0].unlink()
    found = used.live()
    assert found["c"] is None
    assert found["a"] == used.states["a"]


def test_a_session_that_was_deleted_does_not_come_back(used: Used, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(used.root / "sessions" / "a", used.root.with_name("a"))

    async def delete() -> None:
        async with house(used.root, policy=POLICY) as made:
            durability = made.namespaces[""].store.get("a").durability
            assert durability is not None
            made.durability_manager.delete_session(durability, Request("gone", b"content"))
            made.create("d")

    run(delete())
    shutil.copytree(used.root.with_name("a"), used.root / "sessions" / "a")
    assert used.live()["a"] is None
    assert "was deleted, or is of another directory; its snapshots can be imported" in caplog.text


def test_a_session_of_another_directory_is_not_taken(used: Used, caplog: pytest.LogCaptureFixture) -> None:
    other = used.root.with_name("other")

    async def work() -> None:
        async with house(other) as made:
            made.create("d")

    run(work())
    shutil.copytree(other / "sessions" / "d", used.root / "sessions" / "d")
    assert used.live() == used.states
    assert "it belongs to data directory" in caplog.text


def test_a_snapshot_that_a_client_asked_for_is_missed(used: Used, caplog: pytest.LogCaptureFixture) -> None:
    (kept,) = (used.root / "sessions" / "a").glob("kept-*")
    kept.unlink()
    assert used.live() == used.states
    assert f"{kept}, a snapshot that a client asked for, is missing or damaged" in caplog.text


def test_stray_files_are_ignored_with_a_line(used: Used, caplog: pytest.LogCaptureFixture) -> None:
    strays = [
        used.root / "sessions" / ".DS_Store",
        used.root / "journal" / ".DS_Store",
        used.root / "journal" / "copy.journal",
        used.root / "journal" / "000000000001 (copy).journal",
        used.root / "sessions" / "a" / ".DS_Store",
        used.root / "sessions" / "a" / "copy.journal",
        used.root / "quarantine" / ".DS_Store",
        used.root / ".DS_Store",
    ]
    for path in strays:
        path.write_bytes(b"stray")
    folders = [used.root / folder / "lost+found" for folder in (".", "sessions", "journal", "quarantine")]
    for path in folders:
        path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert used.live(steps=40) == used.states
    assert all(path.exists() for path in (*strays, *folders))
    for path in (*strays[:4], *folders[1:3]):
        assert f"{path} is" in caplog.text
    assert {path.name for path in (used.root / "quarantine").iterdir()} == {".DS_Store", "lost+found"}


def test_numbers_of_segments_are_not_used_again(used: Used) -> None:
    """Records in a spare file would be valid again in a segment of its former number."""
    for _ in range(4):
        numbers = {path.name for path in used.segments}
        used.live(steps=60)
        for path in used.segments:
            assert path.name in numbers or path.name > max(numbers)


def bump_version(used: Used) -> None:
    path = used.root / "VERSION"
    path.write_text(path.read_text().replace(f"optserve data {FORMAT}\n", f"optserve data {FORMAT + 1}\nx"))


def bump_manifest(used: Used) -> None:
    from optserve_server.storage.catalog import _check

    path = used.root / "sessions" / "b" / "manifest.json"
    facts = {**json.loads(path.read_text()), "format": FORMAT + 1}
    path.write_text(json.dumps({**facts, "checksum": _check(facts)}))


def bump_positions(used: Used) -> None:
    from optserve_server.storage import durable_positions as module

    path = used.root / "journal" / "positions"
    data = bytearray(path.read_bytes())
    mark, _, identity, _ = module._HEADER.unpack_from(data)
    check = xxhash.xxh3_64_intdigest(module._HEADER.pack(mark, FORMAT + 1, identity, 0))
    module._HEADER.pack_into(data, 0, mark, FORMAT + 1, identity, check)
    path.write_bytes(data)


def bump_segment(used: Used) -> None:
    from optserve_server.storage.journal import _first_record

    path = used.segments[-1]
    identity = (used.root / "VERSION").read_text().split()[3]
    first = b"".join(map(bytes, _first_record(int(path.stem), identity, FORMAT + 1)))
    path.write_bytes(first + path.read_bytes()[len(first) :])


def bump_snapshot(used: Used) -> None:
    from optserve_server.storage import snapshot

    path = used.snapshots("b")[0]
    contents = snapshot.read_snapshot(memoryview(path.read_bytes()))
    metadata = dict(contents.metadata)
    metadata["session"] = metadata["session"].replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}')
    sources = [
        snapshot.TensorSource(name, array.dtype, array.shape, lambda array=array: array)  # type: ignore[misc]
        for name, array in contents.tensors.items()
    ]
    with path.open("wb") as file:
        snapshot.write_snapshot(file.write, sources, metadata)


@pytest.mark.parametrize("bump", [bump_version, bump_manifest, bump_positions, bump_segment, bump_snapshot])
def test_a_newer_format_is_refused_by_name_and_nothing_is_moved(
    used: Used, bump: Callable[[Used], None]
) -> None:
    # Damage elsewhere is not moved either.
    (used.root / "sessions" / "a" / "manifest.json").write_bytes(b"damaged")
    bump(used)
    before = used.tree()
    lock = (used.root / "LOCK").read_bytes()
    with pytest.raises(DirectoryError, match=f"format {FORMAT + 1}, which is newer than format {FORMAT}"):
        used.live()
    assert used.tree() == before
    if bump is bump_version:
        assert (used.root / "LOCK").read_bytes() == lock


def test_a_damaged_session_answers_so(used: Used) -> None:
    (used.root / "sessions" / "a" / "manifest.json").write_bytes(b"damaged")

    async def work() -> None:
        async with house(used.root, policy=POLICY) as made:
            with pytest.raises(DomainError) as caught:
                made.namespaces[""].store.get("a")
            assert caught.value.reason is Reason.SESSION_DAMAGED
            made.durability_manager.delete_quarantined("a", Request("gone", b"content"))
            made.namespaces[""].store.remove_damaged("a")
            made.create("a")

    run(work())
    assert used.live()["a"] is not None
