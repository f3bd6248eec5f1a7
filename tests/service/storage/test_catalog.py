"""The data directory: one server at a time, and only whole sessions."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optserve_server.storage.catalog import Catalog, SessionFolder
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.directory_format import FORMAT, OLDEST_FORMAT, DirectoryError
from optserve_server.storage.files import Disk, Piece, rename_durably, write_file_atomically
from tests.support.disks import FailingDisk


@contextmanager
def open_catalog(root: Path, disk: Disk | None = None) -> Iterator[Catalog]:
    catalog = Catalog(disk or Disk(), root)
    try:
        yield catalog
    finally:
        catalog.close()


def make_session(catalog: Catalog, name: str, content: bytes = b"first") -> SessionFolder:
    """A session of that name, with a snapshot of its first state."""
    folder = catalog.assign_folder(name)
    for source, target in catalog.create_session_folder(folder, writes(content), 0):
        rename_durably(catalog.disk, source, target)
    return folder


def writes(content: bytes) -> Callable[[Callable[[Piece], None]], None]:
    return lambda put: put(content)


def test_sessions_are_found_again(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        a, b = make_session(catalog, "a"), make_session(catalog, "b")
    with open_catalog(tmp_path) as catalog:
        assert list(catalog.iterate_sessions()) == [a, b]
        assert a.owner != b.owner
        assert a.owner % 2 == b.owner % 2 == 1
        (first,) = a.snapshots()
        assert (first.path.read_bytes(), first.number, first.step, first.kept) == (b"first", 0, 0, False)


def test_a_directory_serves_one_server(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from optserve_server.storage.catalog import Catalog
from optserve_server.storage.files import Disk
catalog = Catalog(Disk(), pathlib.Path({str(tmp_path)!r}))
print("locked", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    try:
        with pytest.raises(DirectoryError, match=f"in use by another server .process {holder.pid} on "):
            Catalog(Disk(), tmp_path)
    finally:
        holder.kill()
        holder.communicate(timeout=20)
    with open_catalog(tmp_path):
        pass


def test_a_directory_of_another_version_is_refused(tmp_path: Path) -> None:
    with open_catalog(tmp_path):
        pass
    (tmp_path / "VERSION").write_text("optserve data 1\n")
    with pytest.raises(DirectoryError, match=f"VERSION has format 1, but the first .* is {OLDEST_FORMAT}"):
        Catalog(Disk(), tmp_path)
    with open_catalog(tmp_path / "other") as catalog:
        make_session(catalog, "a")
    version = (tmp_path / "other" / "VERSION").read_text()
    (tmp_path / "other" / "VERSION").unlink()
    with pytest.raises(DirectoryError, match="has sessions, but no VERSION"):
        Catalog(Disk(), tmp_path / "other")
    (tmp_path / "other" / "VERSION").write_text(version)
    with open_catalog(tmp_path / "other"):
        pass


def test_a_start_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    """VERSION is written last: without it, empty folders are those of a first start that was killed."""
    with open_catalog(tmp_path):
        pass
    (tmp_path / "VERSION").unlink()
    with open_catalog(tmp_path):
        assert (tmp_path / "VERSION").read_text().startswith(f"optserve data {FORMAT}\n")


@pytest.mark.parametrize("folder", ["sessions", "journal"])
def test_a_directory_that_lost_a_folder_is_refused(folder: str, tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        make_session(catalog, "a")
    (tmp_path / folder).rename(tmp_path / "away")
    with pytest.raises(DirectoryError, match=f"has a VERSION, but its {folder}/ is missing; restore it"):
        Catalog(Disk(), tmp_path)
    assert not (tmp_path / folder).exists()
    (tmp_path / "away").rename(tmp_path / folder)
    with open_catalog(tmp_path) as catalog:
        assert [
            folder.session_id for folder in catalog.iterate_sessions() if isinstance(folder, SessionFolder)
        ] == ["a"]


def test_what_was_half_done_is_swept(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        a = make_session(catalog, "a")
    (a.path / ".auto-000000000001-1.safetensors.new").write_bytes(b"half")
    (tmp_path / ".VERSION.3.new").write_bytes(b"half")
    (tmp_path / "trash" / "b.0123").mkdir()
    (tmp_path / "trash" / "b.0123" / "manifest.json").write_text("{}")
    with open_catalog(tmp_path) as catalog:
        catalog.remove_leftovers()
        assert list(tmp_path.glob("**/.*")) == []
        assert list((tmp_path / "trash").iterdir()) == []
        assert list(catalog.iterate_sessions()) == [a]


@pytest.mark.parametrize("operation", ["write", "sync", "open"])
def test_a_session_that_cannot_be_made_leaves_nothing(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    with open_catalog(tmp_path, disk) as catalog:
        disk.failing[operation] = errno.ENOSPC
        with pytest.raises(OSError, match="No space"):
            make_session(catalog, "a")
        disk.failing = {}
        assert list(catalog.iterate_sessions()) == []
        assert list((tmp_path / "trash").iterdir()) == []
        assert make_session(catalog, "a").session_id == "a"


def test_a_failed_replacement_leaves_what_was_there(tmp_path: Path) -> None:
    disk, path = FailingDisk(), tmp_path / "file"
    write_file_atomically(disk, path, [b"be", b"fore"])
    for operation in ("open", "write", "sync"):
        disk.failing = {operation: errno.EIO}
        with pytest.raises(OSError, match=r"Input/output"):
            write_file_atomically(disk, path, [b"after"])
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"before")]


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        a = make_session(catalog, "a")
        manifest = a.path / "manifest.json"
        data = manifest.read_bytes()
        for place in range(len(data) - 1):
            changed = bytearray(data)
            changed[place] ^= 1
            manifest.write_bytes(changed)
            (found,) = catalog.iterate_sessions()
            assert not isinstance(found, SessionFolder)
            assert found[0] == "a"
            assert isinstance(found[1], DamagedError)


def test_generations(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        a = make_session(catalog, "a", b"0")
        for number in (1, 2, 3, 12):
            for kept in (False, True):
                write_file_atomically(
                    catalog.disk, a.snapshot_path(number, 2 * number, kept=kept), [b"%d" % number]
                )
        catalog.prune_snapshots(a, 2)
        found = [(file.number, file.step, file.kept) for file in a.snapshots()]
        assert found == [
            (12, 24, False),
            (12, 24, True),
            (3, 6, False),
            (3, 6, True),
            (2, 4, True),
            (1, 2, True),
        ]


def test_quarantine(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        a, b = make_session(catalog, "a"), make_session(catalog, "b")
        place = catalog.move_to_quarantine(a.path)
        assert list(catalog.iterate_sessions()) == [b]
        assert catalog.list_quarantined() == {"a": [place]}
        assert (place / "manifest.json").exists()
