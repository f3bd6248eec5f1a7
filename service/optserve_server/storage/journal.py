"""The journal: records of all sessions in a sequence of files, synced in groups.

One writer for all sessions: whatever was appended while the last group was on its way to
the disk makes the next group, which costs one sync however many sessions it is of. With a
file for each session there would be a sync for each, and sixteen sessions of 40 KB steps
were measured at a ninth of the rate (docs/architecture.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from optserve_server.resources.fair_queue import FairQueue, Flow
from optserve_server.storage.directory_format import FORMAT
from optserve_server.storage.durable_positions import DurablePositions, segment_owner
from optserve_server.storage.failpoints import hit_failpoint, is_armed
from optserve_server.storage.files import BLOCK, Disk, Piece, split_blocks
from optserve_server.storage.record_payload import pack_payload
from optserve_server.storage.records import (
    HEADER_BYTES,
    encode_header,
    make_checksum_state,
    padding_length,
    payload_checksum,
)

SUFFIX = ".journal"
"""What the names of segments end with."""

SEGMENT_NAME = re.compile(r"(\d{12})\.journal", re.ASCII)
_SPARE_NAME = re.compile(r"(\d{12})\.spare", re.ASCII)

SPARE = ".spare"
"""What the names of files end with that are to be used again.

To write over a file's blocks is faster than to be given new ones, and to give many back at once
can hold up a disk for seconds. What stood there before is no record of the new segment, whose
number is another one.
"""

_SPARES = 4

GROUP_BYTES = 4 << 20
"""Bytes from which on no more records are added to a group, so that others wait for no more than these."""

PREPARATION_RETRY_S = 2.0
"""Seconds after which the next segment is tried again if it could not be begun ahead of need."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """A record to append.

    Attributes:
        owner: whose it is.
        number: which of its owner's records.
        pieces: the payload; must not change before `done` is called.
        done: called from the writer's thread with None when the record is durable, or with the
            error if it could not be written; then it is not in the journal.
        flow: which shares the journal's bandwidth with others by weight.
    """

    owner: int
    number: int
    pieces: Sequence[Piece]
    done: Callable[[OSError | None], None]
    flow: Flow | None = None

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)


@dataclass
class Segment:
    """A file of the journal: its bytes, and the last number of each owner in it.

    The first record of a file names the file's format, number and data directory.
    """

    number: int
    path: Path
    size: int
    last: dict[int, int]


class _OpenSegment(NamedTuple):
    """A segment that can be written to, and its descriptor."""

    segment: Segment
    fd: int


class Journal:
    """Appends records. Thread-safe.

    Args:
        disk: where.
        folder: the folder of the segments.
        durable_positions: table of the numbers of durable records.
        directory: identity of the data directory.
        earlier: segments of former runs, from `optserve_server.storage.journal_history.read_journal`.
        segment_bytes: size from which on the next segment is begun.

    Attributes:
        syncs: groups that were synced.
        records: records in them.
        sync_seconds: seconds of these syncs, without the writes.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        durable_positions: DurablePositions,
        directory: str,
        earlier: Sequence[Segment] = (),
        segment_bytes: int = 64 << 20,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._durable_positions = durable_positions
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._files = threading.Lock()
        self._fd = -1
        self._spares = [path for path in sorted(folder.iterdir()) if _SPARE_NAME.fullmatch(path.name)]
        # A number is never used again: a spare may hold records that are valid in a file of its number.
        numbers = {int(path.name.removesuffix(SPARE)) for path in self._spares}
        numbers |= {segment.number for segment in earlier} | durable_positions.segments.keys()
        self._closed = []
        for segment in earlier:
            if segment.last:
                if segment.number not in durable_positions.segments:
                    durable_positions.add_segment(segment.number)
                self._closed.append(segment)
            else:
                self._remove(segment)
        number = max(numbers, default=0) + 1
        self._next: _OpenSegment | None = None
        self._next_attempt = 0.0
        try:
            self._current, self._fd = self._begin_segment(number)
            self._prepare_next_segment()
        except OSError as error:
            # A full disk: the first group begins another one, or is refused.
            _log.warning("no segment of the journal can be begun: %s", error)
            self._current = Segment(number, self._path(number), 0, {})
        self.syncs, self.records, self.sync_seconds = 0, 0, 0.0
        self._queue: FairQueue[Record] = FairQueue()
        self._closing = False
        self._turn = threading.Condition()
        self._committing = threading.Lock()
        self._releasing = threading.Lock()
        self._writer = threading.Thread(target=self._run_commit_thread, name="journal", daemon=True)
        self._writer.start()

    @property
    def byte_count(self) -> int:
        """Bytes of all segments."""
        with self._files:
            return self._current.size + sum(segment.size for segment in self._closed)

    def append(self, record: Record) -> None:
        """Appends a record with the next group.

        Raises:
            OSError: the journal is closed.
        """
        with self._turn:
            if self._closing:
                raise OSError("the journal is closed")
            self._queue.push(record.flow, record)
            self._turn.notify()

    def append_and_wait(self, owner: int, number: int, pieces: Sequence[Piece]) -> None:
        """Appends a record and blocks until it is durable; arguments as those of `Record`.

        Raises:
            OSError: it is not in the journal.
        """
        outcome: Future[OSError | None] = Future()
        self.append(Record(owner, number, pieces, outcome.set_result))
        error = outcome.result()
        if error is not None:
            raise error

    def delete_old_segments(self, covered: Mapping[int, int], keep_bytes: int) -> None:
        """Deletes the oldest segments beyond ``keep_bytes`` that are not needed.

        Args:
            covered: the number up to which each owner has a snapshot; those that are not
                there need nothing.
            keep_bytes: bytes that are kept anyway, so that an older snapshot can replace a
                damaged one.
        """
        with self._releasing:
            excess = self.byte_count - keep_bytes
            for segment in list(self._closed):
                if excess <= 0:
                    return
                if all(number <= covered.get(owner, number) for owner, number in segment.last.items()):
                    self._recycle_segment(segment)
                    with self._files:
                        self._closed.remove(segment)
                    excess -= segment.size

    def _recycle_segment(self, segment: Segment) -> None:
        # A second name is that of a copy in quarantine.
        is_shared = segment.path.stat().st_nlink > 1
        if is_shared or len(self._spares) >= _SPARES or segment.size < self._segment_bytes:
            self._remove(segment)
            return
        self._durable_positions.remove_segment(segment.number)
        spare = segment.path.with_suffix(SPARE)
        self._disk.replace(segment.path, spare)
        with self._files:
            self._spares.append(spare)

    def _remove(self, segment: Segment) -> None:
        self._durable_positions.remove_segment(segment.number)
        self._disk.remove(segment.path)

    def find_pinning_owners(self, covered: Mapping[int, int]) -> set[int]:
        """Returns the owners that need the oldest segment that is still needed, except the current one."""
        with self._files:
            closed = list(self._closed)
        for segment in closed:
            owners = {o for o, number in segment.last.items() if number > covered.get(o, number)}
            if owners:
                return owners
        return set()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Commits no group while the block runs.

        So what was acknowledged is in the files, and no record is half written. Records that are appended
        meanwhile wait.
        """
        with self._committing:
            yield

    def list_segment_ends(self) -> dict[Path, int]:
        """How many bytes of each segment are records that were acknowledged; to be called in a `pause`.

        What follows is of no use. The segment that was begun ahead of need is one of them.
        """
        with self._files:
            segments = [*self._closed, self._current, *([] if self._next is None else [self._next.segment])]
            return {segment.path: segment.size for segment in segments if segment.path.exists()}

    def close(self) -> None:
        """Waits for what was appended, and closes the files."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        self._writer.join()
        self._close_segment()
        if self._next is not None:
            segment, fd = self._next
            with contextlib.suppress(OSError):  # the next start removes it
                self._disk.close(fd)
                self._remove(segment)

    def _run_commit_thread(self) -> None:
        while True:
            with self._turn:
                while not self._queue and not self._closing:
                    self._turn.wait()
                group = self._take_group()
            if not group:
                return
            with self._committing:
                self._commit_group(group)
            group = []  # what it held may be large, and the next one may be long in coming
            with self._committing:
                if self._next is None:
                    self._prepare_next_segment()

    def _take_group(self) -> list[Record]:
        """The records that wait, in fair order; when they are many bytes, those that come first."""
        group, byte_count = list[Record](), 0
        while byte_count < GROUP_BYTES and (taken := self._queue.pop()) is not None:
            flow, record = taken
            length = HEADER_BYTES + record.length
            self._queue.charge(flow, length)
            byte_count += length
            group.append(record)
        return group

    def _commit_group(self, group: list[Record]) -> None:
        """Syncs a group; if that fails, as many of its records as can be."""
        try:
            self._write_and_sync(group)
        except OSError as error:
            if len(group) == 1:
                group[0].done(error)
                return
            for record in group:
                self._commit_group([record])
            return
        for record in group:
            record.done(None)

    def _write_and_sync(self, group: list[Record]) -> None:
        if self._current.size >= self._segment_bytes or self._fd < 0:
            self._rotate_segment()
        end = self._current.size
        try:
            hit_failpoint("before-journal-write")
            end = self._write_records(group, end)
            hit_failpoint("after-journal-write")
        except OSError:
            self._truncate_failed_group()
            raise
        self._sync_segment()
        self.syncs += 1
        self.records += len(group)
        with self._files:
            self._current.size = end
            for record in group:
                self._current.last[record.owner] = record.number
        for record in group:
            self._durable_positions.record_position(record.owner, record.number)
        self._durable_positions.record_position(segment_owner(self._current.number), end)

    def _sync_segment(self) -> None:
        hit_failpoint("before-journal-fsync")
        begun = time.perf_counter()
        try:
            self._disk.sync(self._fd)
        except OSError:
            # What the kernel could not write it may have dropped: nothing is added to such a file.
            self._truncate_failed_group()
            self._close_segment()
            raise
        self.sync_seconds += time.perf_counter() - begun
        hit_failpoint("after-journal-fsync")

    def _write_records(self, group: Sequence[Record], start: int) -> int:
        """Writes a group; small records together, for each call waits for its turn of the interpreter."""
        pieces: list[Piece] = []
        begins = end = start
        for record in group:
            length = record.length
            if length > BLOCK:
                self._disk.write(self._fd, pieces, begins)
                begins = end = self._write_large_record(record, end, length)
                pieces = []
            else:
                pieces += self._frame_record(record, length)
                end += HEADER_BYTES + length + padding_length(length)
        if is_armed("during-journal-write"):
            self._disk.write(self._fd, pieces[:-2], begins)
            hit_failpoint("during-journal-write")
        self._disk.write(self._fd, pieces, begins)
        return end

    def _frame_record(self, record: Record, length: int) -> list[Piece]:
        segment = self._current.number
        head = encode_header(
            record.owner, record.number, length, payload_checksum(record.pieces, segment), segment
        )
        return [head, *record.pieces, bytes(padding_length(length))]

    def _write_large_record(self, record: Record, start: int, length: int) -> int:
        """Writes a payload block by block, so that the disk works while the next is summed up."""
        segment, position = self._current.number, start + HEADER_BYTES
        hasher = make_checksum_state(segment)
        for piece in record.pieces:
            for block in split_blocks(piece):
                hasher.update(block)
                end = self._disk.write(self._fd, [block], position)
                self._disk.begin_write_back(self._fd, position, end - position)
                position = end
                hit_failpoint("during-journal-write")
        end = self._disk.write(self._fd, [bytes(padding_length(length))], position)
        head = encode_header(record.owner, record.number, length, hasher.intdigest(), segment)
        self._disk.write(self._fd, [head], start)
        return end

    def _truncate_failed_group(self) -> None:
        """Truncates what a failed group has left; if that fails, continues in another segment.

        What stays there all the same is superseded by the next record of its number.
        """
        try:
            self._disk.truncate(self._fd, self._current.size)
            self._disk.sync(self._fd)
        except OSError:
            self._close_segment()

    def _close_segment(self) -> None:
        """Lets the next group begin a segment."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._disk.close(self._fd)
            self._fd = -1

    def _rotate_segment(self) -> None:
        before, fd = self._current, self._fd
        following, self._next = self._next or self._begin_segment(before.number + 1), None
        self._current, self._fd = following
        with self._files:
            if before.last:
                self._closed.append(before)
        if fd >= 0:
            self._disk.close(fd)
        if not before.last:
            self._remove(before)

    def _prepare_next_segment(self) -> None:
        """Begins the next segment ahead of need: when it is needed, no descriptor may be left.

        If that fails, it is tried again after `PREPARATION_RETRY_S`, and when the segment is needed.
        """
        if time.monotonic() < self._next_attempt:
            return
        try:
            self._next = self._begin_segment(self._current.number + 1)
        except OSError as error:
            self._next_attempt = time.monotonic() + PREPARATION_RETRY_S
            _log.warning("the next segment of the journal cannot be begun yet: %s", error)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}{SUFFIX}"

    def _begin_segment(self, number: int) -> _OpenSegment:
        path = self._path(number)
        with self._files:
            spare = self._spares.pop() if self._spares else None
        if spare is not None:
            self._disk.replace(spare, path)
        fd = self._disk.open(path, os.O_RDWR | os.O_CREAT)
        try:
            size = self._disk.write(fd, _first_record(number, self._directory), 0)
            self._disk.sync_folder(self._folder)
            self._durable_positions.add_segment(number)
        except OSError:
            self._disk.close(fd)
            raise
        return _OpenSegment(Segment(number, path, size, {}), fd)


def _first_record(segment: int, directory: str, number: int = FORMAT) -> list[Piece]:
    """What a segment begins with; it is synced with the records that follow."""
    pieces = pack_payload({"format": number, "directory": directory})
    length = sum(len(piece) for piece in pieces)
    head = encode_header(segment_owner(segment), 1, length, payload_checksum(pieces, segment), segment)
    return [head, *pieces, bytes(padding_length(length))]
