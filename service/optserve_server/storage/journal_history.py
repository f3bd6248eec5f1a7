"""Reading of the journal: records that follow a session's snapshot, and a check that none is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optserve_server.storage.damage import DamagedError
from optserve_server.storage.directory_format import DirectoryError, check_format, check_identity
from optserve_server.storage.durable_positions import POSITIONS, DurablePositions, segment_owner
from optserve_server.storage.files import Disk
from optserve_server.storage.journal import SEGMENT_NAME, SPARE, SUFFIX, Segment
from optserve_server.storage.record_payload import unpack_payload
from optserve_server.storage.records import Found, Hole, scan_segment


@dataclass
class JournalHistory:
    """Content of a journal.

    Attributes:
        segments: its files.
        holes: bytes before a record that are none, by file. Behind the last record of a file there
            may be anything: a record that was not finished, or what the file held before.
        ends: offset behind the last record, by file.
        strays: files that are no part of a journal.
    """

    segments: list[Segment] = field(default_factory=list)
    holes: list[tuple[Path, Hole]] = field(default_factory=list)
    ends: dict[Path, int] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    _records: dict[int, list[tuple[int, Found]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, segment: int, found: Found) -> None:
        """Takes a record of a segment."""
        self._records[found.owner].append((segment, found))

    def find_records(self, owner: int) -> Sequence[Found]:
        """An owner's records, damaged ones among them, without those that failed and were superseded."""
        records: list[Found] = []
        for _, found in sorted(self._records.get(owner, ()), key=lambda item: item[0]):
            # It stands for what an earlier one of its number, which failed, was to be.
            while records and records[-1].number >= found.number:
                records.pop()
            records.append(found)
        return records

    def find_payloads_after(
        self, owner: int, number: int, durable_positions: DurablePositions
    ) -> list[memoryview]:
        """The payloads of an owner's records that follow ``number``.

        Raises:
            DamagedError: one that was acknowledged is damaged or missing.
        """
        records = [found for found in self.find_records(owner) if found.number > number]
        if records and records[-1].payload is None and records[-1].number > durable_positions[owner]:
            records.pop()  # it was being written when the power failed
        payloads = []
        for expected, found in enumerate(records, start=number + 1):
            if found.number != expected or found.payload is None:
                raise DamagedError(f"journal record {expected} is damaged or missing")
            payloads.append(found.payload)
        if number + len(payloads) < durable_positions[owner]:
            lost = number + len(payloads) + 1
            raise DamagedError(
                f"journal records {lost} to {durable_positions[owner]} were acknowledged and are missing"
            )
        return payloads

    def find_sound_payloads_after(self, owner: int, number: int) -> list[memoryview]:
        """The payloads of an owner's records after ``number``, up to the first that is damaged or missing."""
        payloads: list[memoryview] = []
        for found in self.find_records(owner):
            if found.number <= number:
                continue
            if found.number != number + len(payloads) + 1 or found.payload is None:
                break
            payloads.append(found.payload)
        return payloads

    def list_segments_of(self, owner: int | None) -> list[Segment]:
        """The segments that may hold records of an owner; all if it is not known."""
        return [segment for segment in self.segments if owner is None or owner in segment.last]

    def clear(self) -> None:
        """Lets go of the files."""
        self._records.clear()

    def read_segment(self, disk: Disk, path: Path, directory: str, only: int | None = None) -> Segment:
        """Reads a file of the journal.

        Args:
            disk: where.
            path: the file, named as a segment.
            directory: identity of the data directory.
            only: the owner whose records are taken; None for all.

        Raises:
            DirectoryError: it is of a newer format, or of another directory.
        """
        number = int(path.name.removesuffix(SUFFIX))
        data = disk.read(path)
        segment = Segment(number, path, len(data), {})
        holes: list[Hole] = []
        pending: Hole | None = None
        end, is_named = 0, False
        for item in scan_segment(data, number):
            if isinstance(item, Hole):
                pending = item
                continue
            if pending is not None:
                holes.append(pending)
                pending = None
            end = item.end
            if item.owner == segment_owner(number):
                if item.payload is not None:
                    _check_first_record(path, item.payload, directory)
                    is_named = True
                continue
            segment.last[item.owner] = item.number
            if only in (None, item.owner):
                self.add(number, item)
        if segment.last and not is_named and not (holes and holes[0].start == 0):
            holes.insert(0, Hole(0, 0))
        self.holes += [(path, hole) for hole in holes]
        self.ends[path] = end
        return segment


def read_journal(disk: Disk, folder: Path, directory: str) -> JournalHistory:
    """Reads all segments of a journal.

    Raises:
        DirectoryError: one of them is of a newer format, or of another directory.
    """
    history = JournalHistory()
    for path in sorted(folder.iterdir()):
        if SEGMENT_NAME.fullmatch(path.name) and path.is_file():
            history.segments.append(history.read_segment(disk, path, directory))
        elif path.name != POSITIONS and path.suffix != SPARE:
            history.strays.append(path)
    return history


def check_segments(folder: Path, present: Iterable[Segment], durable_positions: DurablePositions) -> None:
    """Refuses a journal of which a segment is missing.

    Raises:
        DirectoryError: the table lists one that is not there.
    """
    missing = durable_positions.segments.keys() - {segment.number for segment in present}
    if missing:
        raise DirectoryError(
            f"{folder / f'{min(missing):012}{SUFFIX}'} is missing, and may hold acknowledged changes: restore"
            " it, or run optserve-server repair, which states what may be lost"
        )


def _check_first_record(path: Path, payload: memoryview, directory: str) -> None:
    facts, _ = unpack_payload(payload)
    check_format(path, facts["format"])
    check_identity(path, facts["directory"], directory)
