"""Changes of the data directory: recorded before they are made, completed after a crash, or superseded."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.directory_log import DIRECTORY, DirectoryLog
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.request_ledger import AnsweredRequest
from optserve_server.state.session_change import ChangeKind, Request
from optserve_server.storage.catalog import Catalog, Move, SessionFolder
from optserve_server.storage.files import Disk, TemporaryFile, write_file_atomically
from optserve_server.storage.journal import Journal
from optserve_server.storage.journal_history import read_journal
from tests.service.storage.test_catalog import writes
from tests.support.disks import FailingDisk
from tests.support.watching import wait_until


@dataclass
class Opened:
    """A data directory in use."""

    catalog: Catalog
    journal: Journal
    log: DirectoryLog
    namespaces: Namespaces

    def commit(self, request: str, moves: list[Move], kind: ChangeKind = ChangeKind.SAVE) -> None:
        self.log.commit(kind, "a", moves, AnsweredRequest(Request(request, b"content"), kind, b"answer"))

    def session(self, name: str) -> SessionFolder:
        folder = self.catalog.assign_folder(name)
        self.commit(f"create {name}", self.catalog.create_session_folder(folder, writes(b"first"), 0))
        return folder

    @property
    def answered(self) -> list[str]:
        """The requests whose answers are known."""
        return [key for key, *_ in self.namespaces[""].requests.to_json(DIRECTORY, 1024)]


@contextmanager
def open_log(root: Path, disk: Disk | None = None, segment_bytes: int = 1 << 20) -> Iterator[Opened]:
    disk, namespaces = disk or Disk(), Namespaces(NumpyBackend())
    catalog = Catalog(disk, root)
    positions = catalog.positions
    history = read_journal(disk, catalog.journal, catalog.identity)
    log = DirectoryLog(disk, root, namespaces)
    log.recover(history, positions)
    log.redo_moves()
    catalog.remove_leftovers()
    journal = Journal(disk, catalog.journal, positions, catalog.identity, history.segments, segment_bytes)
    log.attach_journal(journal)
    history.clear()
    try:
        yield Opened(catalog, journal, log, namespaces)
    finally:
        journal.close()
        catalog.close()


def record_alone(used: Opened, name: str, moves: list[Move]) -> None:
    """What a server leaves that dies behind the record of a change."""
    apply = used.log._apply_moves
    used.log._apply_moves = lambda moves: (_ for _ in ()).throw(RuntimeError("killed"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        used.commit(name, moves)
    used.log._apply_moves = apply  # type: ignore[method-assign]


def test_changes_come_back_in_order(tmp_path: Path) -> None:
    with open_log(tmp_path) as used:
        a, b = used.session("a"), used.session("b")
        used.commit("delete a", used.catalog.plan_deletion([a.path]))
        assert list((tmp_path / "trash").iterdir()) == []
    for _ in range(2):
        with open_log(tmp_path) as used:
            assert used.answered == ["create a", "create b", "delete a"]
            assert list(used.catalog.iterate_sessions()) == [b]
            assert not used.log.outdated


def test_a_checkpoint_makes_earlier_records_unnecessary(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes=1) as used:
        for number in range(5):
            used.commit(str(number), [])
        assert used.journal.find_pinning_owners({DIRECTORY: used.log.saved_number}) == {DIRECTORY}
        used.log.checkpoint()
        assert used.journal.find_pinning_owners({DIRECTORY: used.log.saved_number}) == set()
        used.journal.delete_old_segments({DIRECTORY: used.log.saved_number}, 0)
        used.commit("5", [])
        # That of the checkpoint, that of the last record, and the next one.
        wait_until(lambda: len(list((tmp_path / "journal").glob("*.journal"))) == 3)
    with open_log(tmp_path) as used:
        assert used.answered == list("012345")
        assert used.log.saved_number == 5


def test_a_change_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    with open_log(tmp_path) as used:
        a = used.session("a")
    a.path.rename(tmp_path / "away")
    with open_log(tmp_path) as used:
        assert used.answered == ["create a"]
        assert list(used.catalog.iterate_sessions()) == []
    (tmp_path / "away").rename(a.path)
    with open_log(tmp_path) as used:
        assert list(used.catalog.iterate_sessions()) == [a]


def test_the_next_start_completes_a_recorded_creation(tmp_path: Path) -> None:
    with open_log(tmp_path) as used:
        folder = used.catalog.assign_folder("a")
        record_alone(used, "create a", used.catalog.create_session_folder(folder, writes(b"first"), 0))
        assert list(used.catalog.iterate_sessions()) == []
    with open_log(tmp_path) as used:
        assert list(used.catalog.iterate_sessions()) == [folder]
        assert [file.path.read_bytes() for file in folder.snapshots()] == [b"first"]
        assert used.answered == ["create a"]


def test_the_next_start_completes_a_recorded_deletion(tmp_path: Path) -> None:
    with open_log(tmp_path) as used:
        a = used.session("a")
        record_alone(used, "delete a", used.catalog.plan_deletion([a.path]))
        assert list(used.catalog.iterate_sessions()) == [a]
    for _ in range(2):
        with open_log(tmp_path) as used:
            assert list(used.catalog.iterate_sessions()) == []
            assert list((tmp_path / "trash").iterdir()) == []
            assert used.answered == ["create a", "delete a"]


def test_the_next_start_completes_a_recorded_snapshot(tmp_path: Path) -> None:
    """Which replaces another of its step; and what is deleted of it, but for the last change."""
    with open_log(tmp_path) as used:
        a = used.session("a")
        write_file_atomically(used.catalog.disk, a.snapshot_path(1, 4, kept=True), [b"earlier"])
        file = TemporaryFile(used.catalog.disk, a.snapshot_path(2, 4, kept=True))
        file.write(b"later")
        file.sync_and_close()
        record_alone(used, "save", used.catalog.plan_replacement(a, file, 4))
    with open_log(tmp_path) as used:
        found = [(file.number, file.kept, file.path.read_bytes()) for file in a.snapshots()]
        assert found == [(2, True, b"later"), (0, False, b"first")]
        files = [file for file in a.snapshots() if file.number in (0, 2)]
        record_alone(used, "drop", used.catalog.plan_snapshot_deletion(a, files))
    with open_log(tmp_path) as used:
        assert [(file.number, file.kept) for file in a.snapshots()] == [(2, False)]
        assert used.answered == ["create a", "save", "drop"]


class SyncedDisk(Disk):
    """A disk that lists what was synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.synced.append("file")

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.synced.append(folder.name)


def test_what_is_moved_is_durable_before_its_record(tmp_path: Path) -> None:
    """So that the next start can complete every change that is recorded, after a power failure as well."""
    disk = SyncedDisk()
    with open_log(tmp_path, disk) as used:
        moves = used.catalog.create_session_folder(used.catalog.assign_folder("a"), writes(b"first"), 0)
        disk.synced.clear()
        used.commit("create a", moves)
        assert disk.synced == ["trash", "file", "sessions", "trash"]


@pytest.mark.parametrize("operation", ["write", "sync", "sync_folder"])
def test_what_cannot_be_recorded_is_not_done(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    with open_log(tmp_path, disk) as used:
        a = used.session("a")
        disk.failing = {operation: errno.EIO}
        with pytest.raises(OSError, match="Input/output"):
            used.commit("delete a", used.catalog.plan_deletion([a.path]))
        disk.failing = {}
        assert list(used.catalog.iterate_sessions()) == [a]
        assert used.answered == ["create a"]
    with open_log(tmp_path) as used:
        assert used.answered == ["create a"]
        assert list(used.catalog.iterate_sessions()) == [a]


@pytest.mark.parametrize("also", [[], ["write"]])
def test_a_recorded_change_that_fails_is_superseded(tmp_path: Path, also: list[str]) -> None:
    """At once, or when the disk takes it."""
    disk = FailingDisk()
    with open_log(tmp_path, disk) as used:
        a = used.session("a")
        rename = disk.replace

        def failing(source: Path, target: Path) -> None:
            rename(source, target)
            disk.failing = dict.fromkeys(["sync_folder", *also], errno.EIO)

        disk.replace = failing  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Input/output"):
            used.commit("delete a", used.catalog.plan_deletion([a.path]))
        disk.replace = rename  # type: ignore[method-assign]
        disk.failing = {}
        assert list(used.catalog.iterate_sessions()) == [a]
        assert used.log.outdated == bool(also)
        if also:
            used.commit("next", [])
        assert not used.log.outdated
    with open_log(tmp_path) as used:
        assert used.answered == ["create a", *(["next"] if also else [])]
        assert list(used.catalog.iterate_sessions()) == [a]


def test_damaged_records_are_told_and_superseded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(tmp_path) as used:
        for number in range(3):
            used.commit(str(number), [])
    (path,) = (tmp_path / "journal").glob("*.journal")
    data = bytearray(path.read_bytes())
    data[data.index(b"\xf5rec", 1) + 50] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.ERROR), open_log(tmp_path) as used:
        assert "answers to earlier requests are lost" in caplog.text
        assert "journal record 1 is damaged" in caplog.text
        assert not used.log.is_complete
        assert used.answered == []
        used.commit("next", [])
    with open_log(tmp_path) as used:
        assert used.answered == ["next"]


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_a_snapshot_that_cannot_be_finished_leaves_nothing_open(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    file = TemporaryFile(disk, tmp_path / "file")
    file.write(b"content")
    disk.failing = {operation: errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        file.move_into_place()
    assert not file.temporary.exists()
    assert file._fd == -1


def test_sessions_are_known_until_they_are_deleted(tmp_path: Path) -> None:
    with open_log(tmp_path) as used:
        used.log.commit(ChangeKind.CREATE, "a", [], owner=3)
        used.log.commit(ChangeKind.FORK, "team@b", [], owner=5)
        used.log.checkpoint()
        used.log.commit(ChangeKind.IMPORT, "c", [], owner=7)
        used.log.commit(ChangeKind.DELETE, "a", [])
    with open_log(tmp_path) as used:
        assert used.log.folders == {"team@b": 5, "c": 7}


def test_a_checkpoint_holds_answers_by_namespace(tmp_path: Path) -> None:
    asked = [
        AnsweredRequest(Request(key, b"content"), ChangeKind.DROP, b"answer", DIRECTORY) for key in ("x", "y")
    ]
    with open_log(tmp_path) as used:
        used.log.commit(ChangeKind.DROP, "a", [], asked[0])
        used.log.commit(ChangeKind.DROP, "team%2Fone@a", [], asked[1])
        used.log.checkpoint()
    with open_log(tmp_path) as used:
        for namespace, known in (("", asked[0]), ("team/one", asked[1])):
            assert used.namespaces[namespace].requests.find_answer(known.request) == known
        assert used.answered == ["x"]
