"""A journal that tests write to and read again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk, Piece
from optserve_server.storage.journal import Journal, Record
from optserve_server.storage.journal_history import JournalHistory, read_journal

DIRECTORY = "0123456789abcdef" * 2


def open_positions(disk: Disk, folder: Path) -> DurablePositions:
    path = folder / "positions"
    return DurablePositions(disk, path, DIRECTORY, is_new=not path.exists())


class Writer:
    """Appends and waits."""

    def __init__(self, folder: Path, disk: Disk | None = None, segment_bytes: int = 1 << 20) -> None:
        self.disk = disk or Disk()
        self.durable_positions = open_positions(self.disk, folder)
        self.history = read_journal(self.disk, folder, DIRECTORY)
        self.journal = Journal(
            self.disk, folder, self.durable_positions, DIRECTORY, self.history.segments, segment_bytes
        )

    def append(self, owner: int, number: int, *pieces: Piece) -> OSError | None:
        done = threading.Event()
        outcome: list[OSError | None] = []

        def on_durable(error: OSError | None) -> None:
            outcome.append(error)
            done.set()

        self.journal.append(Record(owner, number, pieces, on_durable))
        assert done.wait(20)
        return outcome[0]

    def close(self) -> None:
        self.journal.close()
        self.durable_positions.close()


@contextmanager
def writing(folder: Path, disk: Disk | None = None, segment_bytes: int = 1 << 20) -> Iterator[Writer]:
    writer = Writer(folder, disk, segment_bytes)
    try:
        yield writer
    finally:
        writer.close()


def payloads(folder: Path, owner: int, after: int = 0) -> list[bytes]:
    """What recovery would replay."""
    disk = Disk()
    durable_positions = open_positions(disk, folder)
    try:
        return [
            bytes(payload)
            for payload in read_journal(disk, folder, DIRECTORY).find_payloads_after(
                owner, after, durable_positions
            )
        ]
    finally:
        durable_positions.close()


def holes(folder: Path) -> JournalHistory:
    return read_journal(Disk(), folder, DIRECTORY)
