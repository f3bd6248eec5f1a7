"""What is noted before it is done: known after a crash, completed, or withdrawn."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from optserve_server.storage.catalog import SessionFolder
from optserve_server.storage.files import Beside, Disk, write_whole
from optserve_server.storage.intent_log import MAX_INTENTS, Intent, IntentKind, IntentLog
from tests.service.storage.test_catalog import open_catalog, writes
from tests.support.disks import FailingDisk


def notes_of(path: Path, disk: Disk | None = None) -> IntentLog:
    return IntentLog(disk or Disk(), path / "notes.json")


def saving(folder: SessionFolder, *files: Path, request: str = "one") -> Intent:
    names = tuple(file.name for file in files)
    return Intent(IntentKind.SAVE, folder.path.name, folder.owner, request, "00ff", "answer", names)


def test_the_last_notes_come_back(tmp_path: Path) -> None:
    notes = notes_of(tmp_path)
    for number in range(3):
        with notes.noting(Intent(IntentKind.DELETE, "a", number, str(number), "00", "answer", ("x",))):
            assert not notes_of(tmp_path).all()[-1].done
    assert [note.done for note in notes_of(tmp_path).all()] == [True, True, False]
    notes.settle()
    assert notes_of(tmp_path).all() == notes.all()
    assert [note.owner for note in notes.all()] == [0, 1, 2]


def test_as_many_are_kept_as_are_stated(tmp_path: Path) -> None:
    """Of one session 64, and none once it is deleted."""
    notes = notes_of(tmp_path)
    notes._notes = [Intent(IntentKind.DROP, "a", 5, str(number)) for number in range(100)]
    with notes.noting(Intent(IntentKind.SAVE, "b", 6)):
        pass
    assert [note.request for note in notes.all()] == [*map(str, range(36, 100)), ""]
    with notes.noting(Intent(IntentKind.DELETE, "a", 5)):
        assert len(notes.all()) == 66
    with notes.noting(Intent(IntentKind.SAVE, "b", 6)):
        pass
    assert [note.owner for note in notes.all()] == [6, 5, 6]
    notes._notes = [Intent(IntentKind.DELETE, "a", number) for number in range(MAX_INTENTS)]
    with notes.noting(Intent(IntentKind.SAVE, "c", 7)):
        pass
    assert (len(notes.all()), notes.all()[0].owner, notes.all()[-1].owner) == (MAX_INTENTS, 1, 7)


def test_no_flipped_bit_makes_another_note(tmp_path: Path) -> None:
    notes = notes_of(tmp_path)
    with notes.noting(Intent(IntentKind.DELETE, "a", 5, "key", "00ff", "answer", ("x", "y"))):
        pass
    path = tmp_path / "notes.json"
    data, told = path.read_bytes(), notes_of(tmp_path).all()
    assert len(told) == 1
    for place in range(len(data)):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]):
            path.write_bytes(changed)
            assert notes_of(tmp_path).all() in ([], told)


@pytest.mark.parametrize("operation", ["open", "write", "sync", "sync_folder"])
def test_what_cannot_be_noted_is_not_done(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    notes = notes_of(tmp_path, disk)
    disk.failing = {operation: errno.EIO}
    with pytest.raises(OSError, match="Input/output"), notes.noting(Intent(IntentKind.DELETE, "a", 1)):
        pytest.fail("it was done")
    assert notes.all() == []
    assert notes.outdated
    disk.failing = {}
    notes.settle()
    assert not notes.outdated
    assert notes_of(tmp_path).all() == []


def test_what_fails_is_withdrawn(tmp_path: Path) -> None:
    notes = notes_of(tmp_path)
    with pytest.raises(OSError, match="no"), notes.noting(Intent(IntentKind.DELETE, "a", 1)):
        raise OSError("no")
    assert notes.all() == notes_of(tmp_path).all() == []


def test_the_next_start_completes_what_was_noted(tmp_path: Path) -> None:
    """The notes are on the disk, and nothing of what they say was done when the server died."""
    with open_catalog(tmp_path) as catalog:
        made = {name: catalog.create(name, writes(b"first"), 0, 0) for name in ("a", "b", "c")}
        files = {n: made["a"].place(n, n, kept=True) for n in (1, 2, 3)}
        for file in files.values():
            write_whole(catalog.disk, file, [b"kept"])
        said = [
            saving(made["a"], files[1], request="has its place"),
            saving(made["a"], made["a"].place(4, 4, kept=True), request="has not"),
            Intent(IntentKind.DELETE, "b", made["b"].owner, "delete"),
            Intent(IntentKind.DELETE, "c", made["b"].owner, "delete another c"),
            Intent(IntentKind.DROP, "a", made["a"].owner, "drop", files=(files[2].name,)),
            Intent(IntentKind.DROP, "a", made["a"].owner, "drop the last", files=(files[3].name,)),
        ]
        # As if the server died within the first block: nothing of it is done, or withdrawn.
        blocks = [catalog.intent_log.noting(note) for note in said]
        for block in blocks:
            block.__enter__()
    with open_catalog(tmp_path) as catalog:
        told = catalog.complete()
        assert [note.request for note in told] == [n.request for n in said if n.request != "has not"]
        assert all(note.done for note in told)
        assert list(catalog.folders()) == [made["a"], made["c"]]
        found = [(file.number, file.kept) for file in made["a"].snapshots()]
        assert found == [(3, False), (1, True), (0, False)]
        # It stays an answer when the snapshot is deleted.
        files[1].unlink()
    with open_catalog(tmp_path) as catalog:
        assert catalog.complete() == told
        catalog.delete(made["a"], Intent(IntentKind.DELETE, "a", made["a"].owner))
    with open_catalog(tmp_path) as catalog:
        assert {note.kind for note in catalog.complete()} == {IntentKind.DELETE}


def test_a_refused_deletion_leaves_the_session(tmp_path: Path) -> None:
    disk = FailingDisk()
    with open_catalog(tmp_path, disk) as catalog:
        made = catalog.create("a", writes(b"first"), 0, 0)
        disk.failing = {"sync_folder": errno.EIO}
        with pytest.raises(OSError, match="Input/output"):
            catalog.delete(made, Intent(IntentKind.DELETE, "a", made.owner))
        assert list(catalog.folders()) == [made]
        with pytest.raises(OSError, match="Input/output"):
            catalog.delete(made, Intent(IntentKind.DELETE, "a", made.owner, "asked"))
        disk.failing = {}
        catalog.intent_log.settle()
    with open_catalog(tmp_path) as catalog:
        assert catalog.complete() == []
        assert list(catalog.folders()) == [made]


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_a_snapshot_that_cannot_be_finished_leaves_nothing_open(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    file = Beside(disk, tmp_path / "file")
    file.write(b"content")
    disk.failing = {operation: errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        file.finish()
    assert not file.temporary.exists()
    assert file._fd == -1
