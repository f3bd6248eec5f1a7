"""Reading of the journal: records that follow a session's snapshot, and a check that none is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk
from optserve_server.storage.journal import SUFFIX, Segment
from optserve_server.storage.records import Found, Hole, scan


@dataclass
class JournalHistory:
    """Content of a journal.

    Attributes:
        segments: its files.
        holes: bytes before a record that are none, by file. Behind the last record of a file there
            may be anything: a record that was not finished, or what the file held before.
    """

    segments: list[Segment] = field(default_factory=list)
    holes: list[tuple[Path, Hole]] = field(default_factory=list)
    _records: dict[int, list[Found]] = field(default_factory=lambda: defaultdict(list))

    def add(self, found: Found) -> None:
        """Takes the next record. It stands for what an earlier one of its number, which failed, was to be."""
        records = self._records[found.owner]
        while records and records[-1].number >= found.number:
            records.pop()
        records.append(found)

    def find_records(self, owner: int) -> Sequence[Found]:
        """An owner's records, damaged ones among them."""
        return self._records.get(owner, ())

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

    def clear(self) -> None:
        """Lets go of the files."""
        self._records.clear()


def read_journal(disk: Disk, folder: Path) -> JournalHistory:
    """Reads all segments of a journal."""
    history = JournalHistory()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        number = int(path.name.removesuffix(SUFFIX))
        data = disk.read(path)
        segment = Segment(number, path, len(data), {})
        hole: Hole | None = None
        for item in scan(data, number):
            if isinstance(item, Hole):
                hole = item
                continue
            if hole is not None:
                history.holes.append((path, hole))
                hole = None
            segment.last[item.owner] = item.number
            history.add(item)
        history.segments.append(segment)
    return history
