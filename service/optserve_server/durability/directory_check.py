"""Verification of a data directory that no server uses: every checksum, and every reference between files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from optserve_server.durability.recovery import DamagedSession, Examination, RestoredSession
from optserve_server.storage.catalog import SessionFolder, SnapshotFile
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import POSITIONS, segment_owner
from optserve_server.storage.journal import Segment
from optserve_server.storage.records import HEADER_BYTES, Hole, padding_length, scan_segment


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        path: the file or folder.
        text: what is wrong.
    """

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass
class CheckReport:
    """Result of a check.

    Attributes:
        findings: what is wrong.
        sessions: steps of the sessions that are whole, by the names of their folders.
        unused: offset from which the bytes of a file are used by nothing; 0 for a file that is not used.
    """

    findings: list[Finding] = field(default_factory=list)
    sessions: dict[str, int] = field(default_factory=dict)
    unused: dict[Path, int] = field(default_factory=dict)


def check_directory(examination: Examination) -> CheckReport:
    """Checks every file of a directory.

    Args:
        examination: what a server would find in it.
    """
    catalog, log = examination.catalog, examination.directory_log
    report = CheckReport()
    positions = catalog.journal / POSITIONS
    report.findings += [Finding(positions, text) for text in catalog.positions.damaged]
    if not log.is_complete:
        report.findings.append(Finding(catalog.journal, "the directory's own records are damaged"))
    for segment in examination.history.segments:
        report.findings += _check_segment(examination, segment, report)
    pending = {path for move in log.pending_moves for path in move}
    for found in examination.sessions:
        if isinstance(found, DamagedSession):
            if found.path not in pending:
                report.findings.append(Finding(found.path, found.cause))
            continue
        folder = found.durability.folder
        report.sessions[folder.session_id] = found.durability.session.step
        report.findings += _check_snapshots(examination, found, pending)
    report.findings += _check_missing(examination, pending)
    used = {catalog.root / "VERSION", positions}
    for path in catalog.root.rglob("*"):
        is_used = path in used or catalog.sessions in path.parents or path in examination.history.ends
        if path.is_file() and not is_used:
            report.unused[path] = 0
    return report


def _check_segment(examination: Examination, segment: Segment, report: CheckReport) -> Iterator[Finding]:
    """Checks a segment up to the end of its last acknowledged record."""
    catalog = examination.catalog
    end = catalog.positions.segments.get(segment.number, 0)
    report.unused[segment.path] = max(end, examination.history.ends[segment.path] if end else 0)
    data = catalog.disk.read(segment.path)
    if len(data) < end:
        yield Finding(segment.path, f"it has {len(data)} bytes, but {end} were acknowledged")
    position, is_first = 0, True
    for item in scan_segment(data, segment.number):
        if position >= end:
            return
        if isinstance(item, Hole):
            yield Finding(segment.path, f"bytes {item.start} to {min(item.end, end)} are no record")
            position = item.end
            continue
        if item.payload is None:
            yield Finding(segment.path, f"the record at byte {position} is damaged")
        else:
            stop = position + HEADER_BYTES + len(item.payload)
            if bytes(data[stop : item.end]) != bytes(padding_length(len(item.payload))):
                yield Finding(segment.path, f"bytes {stop} to {item.end} are not zero")
        if is_first and item.owner != segment_owner(segment.number):
            yield Finding(segment.path, "it does not begin with the record that names it")
        position, is_first = item.end, False


def _check_snapshots(
    examination: Examination, found: RestoredSession, pending: set[Path]
) -> Iterator[Finding]:
    """Checks every snapshot of a session, and whether one is missing."""
    catalog, log = examination.catalog, examination.directory_log
    folder = found.durability.folder
    files = folder.snapshots()
    sound: set[SnapshotFile] = set()
    for file in files:
        try:
            catalog.read_snapshot(file)
            sound.add(file)
        except DamagedError as error:
            yield Finding(file.path, str(error))
    numbers = {file.number for file in files}
    automatic = {file.number for file in files if not file.kept}
    saved = catalog.positions.get_saved(folder.owner)
    if max(numbers) < saved:
        yield Finding(folder.path, f"the snapshot after change {saved} is missing")
    dropped = " ".join(log.dropped.get(folder.session_id, ()))
    for earlier in catalog.read_earlier(files[0]) if files[0] in sound else ():
        if earlier not in automatic and f"/auto-{earlier:012}-" not in dropped:
            yield Finding(folder.path, f"the snapshot after change {earlier} is missing")
    there = {str(file.path.relative_to(catalog.root)) for file in files if file.kept}
    listed = {path for path in log.kept if path.split("/")[1] == folder.session_id}
    for path in sorted(listed - there):
        if catalog.root / path not in pending:
            yield Finding(catalog.root / path, "the snapshot, which a client asked for, is missing")
    for path in sorted(there - listed) if log.is_complete else ():
        if catalog.root / path not in pending:
            yield Finding(catalog.root / path, "no client asked for this snapshot")


def _check_missing(examination: Examination, pending: set[Path]) -> Iterator[Finding]:
    """Finds sessions without a folder, and those in quarantine."""
    catalog = examination.catalog
    aside = catalog.list_quarantined()
    for name in sorted(examination.directory_log.folders.keys() | aside.keys()):
        path = catalog.sessions / name
        if path.exists() or path in pending:
            continue
        if any(SessionFolder(place, name, 0).snapshots() for place in aside.get(name, ())):
            yield Finding(aside[name][-1], "the session is in quarantine")
        else:
            yield Finding(path, "the folder of the session is missing")
