"""The journal: what was acknowledged is read again, whatever else happened."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optserve_server.resources.budget import Budget
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import BLOCK
from optserve_server.storage.journal import GROUP_BYTES, Record
from optserve_server.storage.records import HEADER_BYTES
from tests.service.storage.journals import Writer, holes, payloads, writing
from tests.support.disks import FailingDisk, FullDisk, GatedDisk, SlowDisk
from tests.support.watching import wait_until


def test_records_come_back_in_order_by_owner(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for number in (1, 2, 3):
            for owner in (7, 8):
                assert writer.append(owner, number, b"of %d: " % owner, b"x" * number) is None
    assert payloads(tmp_path, 7) == [b"of 7: x", b"of 7: xx", b"of 7: xxx"]
    assert payloads(tmp_path, 8, after=2) == [b"of 8: xxx"]
    assert payloads(tmp_path, 9) == []


def test_records_of_several_blocks(tmp_path: Path) -> None:
    large = bytes(range(256)) * (BLOCK // 128) + b"odd"
    with writing(tmp_path) as writer:
        assert writer.append(7, 1, b"head", large) is None
        assert writer.append(7, 2, b"next") is None
    assert payloads(tmp_path, 7) == [b"head" + large, b"next"]


def test_a_pause_begins_between_two_groups(tmp_path: Path) -> None:
    """A group that is being written is completed first; what is appended meanwhile waits."""
    disk, done = GatedDisk(), threading.Semaphore(0)
    paused, left = threading.Event(), threading.Event()
    ends: list[dict[Path, int]] = []

    def pause() -> None:
        with writer.journal.pause():
            ends.append(writer.journal.list_segment_ends())
            paused.set()
            left.wait(10)
            ends.append(writer.journal.list_segment_ends())

    with writing(tmp_path, disk) as writer:
        assert writer.append(7, 1, b"one") is None
        disk.gated = True
        writer.journal.append(Record(7, 2, [b"two"], lambda _: done.release()))
        assert disk.reached.wait(10)
        thread = threading.Thread(target=pause)
        thread.start()
        assert not paused.wait(0.2)
        disk.opened.set()
        assert paused.wait(10)
        assert done.acquire(timeout=10)
        assert writer.durable_positions[7] == 2
        writer.journal.append(Record(7, 3, [b"three"], lambda _: done.release()))
        assert not done.acquire(timeout=0.2)
        left.set()
        assert done.acquire(timeout=10)
        thread.join(10)
    assert ends[0] == ends[1]
    path = min(ends[0])  # the next segment has been begun as well
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / path.name).write_bytes(path.read_bytes()[: ends[0][path]])
    (cut / "positions").write_bytes((tmp_path / "positions").read_bytes())
    with pytest.raises(DamagedError, match="3 to 3 were acknowledged"):
        payloads(cut, 7)  # the table is of later


def test_a_short_record_waits_for_few_bytes_of_another_flow(tmp_path: Path) -> None:
    """One flow's records are many groups; the next group begins with the other's, though it came last."""
    disk = GatedDisk()
    large, small, order = Budget({}), Budget({}), list[str]()
    done = threading.Semaphore(0)

    def note(name: str) -> Callable[[OSError | None], None]:
        def on_durable(error: OSError | None) -> None:
            assert error is None
            order.append(name)
            done.release()

        return on_durable

    with writing(tmp_path, disk) as writer:
        disk.gated = True
        writer.journal.append(Record(7, 1, [b"first"], note("first"), large))
        assert disk.reached.wait(10)
        for owner in range(8, 28):
            writer.journal.append(Record(owner, 1, [bytes(GROUP_BYTES // 4)], note("large"), large))
        writer.journal.append(Record(28, 1, [b"small"], note("small"), small))
        disk.opened.set()
        for _ in range(22):
            assert done.acquire(timeout=20)
    assert order.index("small") <= 2
    assert order.count("large") == 20
    assert payloads(tmp_path, 27) == [bytes(GROUP_BYTES // 4)]


def test_a_run_continues_the_last_one_in_a_new_segment(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with writing(tmp_path) as writer:
            writer.append(7, number, b"%d" % number)
    with writing(tmp_path):
        pass  # a run without a record leaves no segment
    assert payloads(tmp_path, 7) == [b"1", b"2", b"3"]
    assert len(list(tmp_path.glob("*.journal"))) <= 4


def test_segments_are_freed_when_nobody_needs_them(tmp_path: Path) -> None:
    with writing(tmp_path, segment_bytes=1100) as writer:
        for number in range(1, 21):
            writer.append(7, number, bytes(400))
            writer.append(8, number, bytes(400))
        before = 15  # three records to a segment, and the next segment
        wait_until(lambda: len(list(tmp_path.glob("*.journal"))) == before)
        assert writer.journal.find_pinning_owners({7: 20, 8: 0}) == {8}
        writer.journal.delete_old_segments({7: 20, 8: 0}, 0)
        assert len(list(tmp_path.glob("*.journal"))) == before
        writer.journal.delete_old_segments({7: 20, 8: 10}, 1 << 20)
        assert len(list(tmp_path.glob("*.journal"))) == before
        writer.journal.delete_old_segments({7: 20, 8: 10}, 0)
        # Three records to a segment: those up to number 10 fill six, and 11 of both begins the next.
        assert len(list(tmp_path.glob("*.journal"))) == before - 7
        assert len(list(tmp_path.glob("*.spare"))) == 4
    assert len(payloads(tmp_path, 8, after=10)) == 10
    with writing(tmp_path) as writer:
        writer.journal.delete_old_segments({}, 0)  # both were deleted
    assert payloads(tmp_path, 99) == []
    assert len(list(tmp_path.glob("*.journal"))) <= 1


def test_files_that_are_used_again_hold_no_earlier_record(tmp_path: Path) -> None:
    """Neither in the same run nor in the next, wherever the new records end."""
    for _ in range(2):
        with writing(tmp_path, segment_bytes=1000) as writer:
            first = max(writer.durable_positions[7], 0) + 1
            for number in range(first, first + 30):
                assert writer.append(7, number, bytes([number]) * 300) is None
                writer.journal.delete_old_segments({7: number}, 0)
        assert len(list(tmp_path.glob("*.spare"))) >= 1
        assert payloads(tmp_path, 7, after=first + 28) == [bytes([first + 29]) * 300]
    assert not holes(tmp_path).holes


@pytest.mark.parametrize("half", [True, False])
def test_a_failed_write_is_told_and_leaves_no_trace(tmp_path: Path, half: bool) -> None:
    disk = FailingDisk()
    disk.half = half
    with writing(tmp_path, disk) as writer:
        assert writer.append(7, 1, b"one") is None
        disk.failing["write"] = errno.ENOSPC
        refused = writer.append(7, 2, b"two")
        assert refused is not None
        assert refused.errno == errno.ENOSPC
        del disk.failing["write"]
        assert writer.append(7, 2, b"another two") is None
    assert payloads(tmp_path, 7) == [b"one", b"another two"]


@pytest.mark.parametrize("also", [[], ["truncate"], ["truncate", "open"]])
def test_a_record_whose_sync_failed_is_superseded(tmp_path: Path, also: list[str]) -> None:
    disk = FailingDisk()
    with writing(tmp_path, disk) as writer:
        assert writer.append(7, 1, b"one") is None
        disk.failing = dict.fromkeys(["sync", *also], errno.EIO)
        for _ in range(3):
            refused = writer.append(7, 2, b"two")
            assert refused is not None
            assert refused.errno == errno.EIO
        disk.failing = {}
        assert writer.append(7, 2, b"another two") is None
        assert writer.append(7, 3, b"three") is None
    assert payloads(tmp_path, 7) == [b"one", b"another two", b"three"]


def test_a_full_disk_takes_the_records_of_a_group_that_fit(tmp_path: Path) -> None:
    disk = FullDisk(1 << 20)
    with writing(tmp_path, disk) as writer:
        gate = SlowGate(disk)
        with gate:
            outcomes = [
                gate.append(writer, owner, bytes(size)) for owner, size in ((1, 100), (2, 9000), (3, 100))
            ]
            disk.left = 1000
        small, large, last = (outcome() for outcome in outcomes)
        assert (small, last) == (None, None)
        assert large is not None
        assert large.errno == errno.ENOSPC
        disk.left = 1 << 20
        assert writer.append(2, 1, b"room again") is None
    assert [len(payloads(tmp_path, owner)) for owner in (1, 2, 3)] == [1, 1, 1]
    assert payloads(tmp_path, 2) == [b"room again"]


class SlowGate:
    """Holds the writer back while a group gathers."""

    def __init__(self, disk: FullDisk) -> None:
        self._open = threading.Event()
        sync = disk.sync

        def waiting(fd: int) -> None:
            assert self._open.wait(20)
            sync(fd)

        disk.sync = waiting  # type: ignore[method-assign]
        self._first = True

    def append(self, writer: Writer, owner: int, payload: bytes) -> _Later:
        if self._first:
            self._first = False
            self._blocker = _Later(writer, 99, b"first")
            time.sleep(0.05)  # it is on its way to the disk, and the others gather behind it
        return _Later(writer, owner, payload)

    def __enter__(self) -> SlowGate:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()


class _Later:
    def __init__(self, writer: Writer, owner: int, payload: bytes) -> None:
        self._outcome: list[OSError | None] = []
        thread = threading.Thread(target=lambda: self._outcome.append(writer.append(owner, 1, payload)))
        thread.start()
        self._thread = thread

    def __call__(self) -> OSError | None:
        self._thread.join(20)
        return self._outcome[0]


def test_sessions_share_syncs(tmp_path: Path) -> None:
    """On a disk that takes 4 ms, sixteen writers of 20 records need at most three times the syncs of one."""
    for count in (1, 16):
        folder = tmp_path / str(count)
        folder.mkdir()
        disk = SlowDisk(0.004)
        with writing(folder, disk) as writer:
            threads = [
                threading.Thread(target=_append, args=(writer, owner, 20)) for owner in range(1, count + 1)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert disk.syncs < 20 * 3


def _append(writer: Writer, owner: int, count: int) -> None:
    for number in range(1, count + 1):
        assert writer.append(owner, number, bytes(40_000)) is None


def test_a_torn_tail_that_nobody_was_told_of_is_left_out(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.append(7, 1, bytes(100))
    (path,) = [path for path in tmp_path.glob("*.journal") if path.stat().st_size]
    whole = path.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    with writing(other) as writer:
        for number in (1, 2):
            writer.append(7, number, bytes(100))
    (longer,) = other.glob("*.journal")
    second = longer.read_bytes()[len(whole) :]
    for cut in range(0, HEADER_BYTES + 100, 7):
        path.write_bytes(whole + second[:cut])
        assert payloads(tmp_path, 7) == [bytes(100)]


def test_a_lost_record_that_was_acknowledged_is_missed(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for number in (1, 2):
            writer.append(7, number, bytes(100))
            writer.append(8, number, bytes(100))
    (path,) = tmp_path.glob("*.journal")
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(DamagedError, match="record 2 is damaged or missing"):
        payloads(tmp_path, 8)
    assert len(payloads(tmp_path, 7)) == 2
    path.write_bytes(data[:-200])
    with pytest.raises(DamagedError, match="2 to 2 were acknowledged and are missing"):
        payloads(tmp_path, 8)
    path.unlink()
    for owner in (7, 8):
        with pytest.raises(DamagedError, match="1 to 2 were acknowledged and are missing"):
            payloads(tmp_path, owner)


def test_positions_of_many_sessions_survive(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for owner, number in itertools.product(range(1, 1500), (1, 2, 3)):
            writer.durable_positions.record_position(owner, number)
        writer.durable_positions.record_position(5, 2)  # no way back
        writer.durable_positions.remove_owner(6)
    with writing(tmp_path) as writer:
        assert [writer.durable_positions[owner] for owner in (1, 5, 6, 1499, 1500)] == [3, 3, 0, 3, 0]
        writer.durable_positions.retain_owners([1])
    with writing(tmp_path) as writer:
        assert [writer.durable_positions[owner] for owner in (1, 5)] == [3, 0]
