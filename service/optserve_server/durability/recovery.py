"""Recovery at start-up: every session is restored as acknowledged, or quarantined and reported."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optserve_server.durability.change_records import replay_record
from optserve_server.durability.directory_log import DIRECTORY, DirectoryLog, parse_folder_name
from optserve_server.durability.durability_manager import (
    DurabilityManager,
    Encode,
    RecoveryCounts,
    SnapshotPolicy,
)
from optserve_server.durability.snapshot_codec import decode_metadata, decode_snapshot
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.request_ledger import AnsweredRequest
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.storage.catalog import Catalog, SessionFolder, SnapshotFile
from optserve_server.storage.damage import DamagedError, UnknownFormatError
from optserve_server.storage.directory_format import DirectoryError
from optserve_server.storage.durable_positions import POSITIONS
from optserve_server.storage.files import Disk
from optserve_server.storage.journal import Journal
from optserve_server.storage.journal_history import JournalHistory, check_segments, read_journal

_log = logging.getLogger(__name__)


PROGRESS_SECONDS = 5.0
"""Seconds of a recovery after which its progress is logged again."""


@dataclass(frozen=True)
class RestoredSession:
    """A session that was restored exactly.

    Attributes:
        durability: of the session.
        damaged_snapshots: its later snapshots, which could not be used.
    """

    durability: SessionDurability[Session]
    damaged_snapshots: list[SnapshotFile]


@dataclass(frozen=True)
class DamagedSession:
    """A session that cannot be restored exactly.

    Attributes:
        path: its folder.
        cause: why.
        owner: owner of its records; None if it is not known.
    """

    path: Path
    cause: str
    owner: int | None


@dataclass(frozen=True)
class Examination:
    """What a data directory holds.

    Attributes:
        catalog: the directory; to be closed.
        history: the journal.
        directory_log: the directory's own records.
        sessions: every session that has a folder.
    """

    catalog: Catalog
    history: JournalHistory
    directory_log: DirectoryLog
    sessions: list[RestoredSession | DamagedSession]


@dataclass
class RecoveryProgress:
    """How far a recovery is; may be read from any thread.

    Attributes:
        examined: sessions that were restored or found damaged.
        known: sessions that the directory has; 0 until its journal was read.
    """

    examined: int = 0
    known: int = 0


class Recovery:
    """Restores the sessions of a data directory.

    Args:
        root: the directory.
        namespaces: takes the sessions.
        codec: reads specifications.
        encode: encodes answers again.
        policy: for afterwards.
        disk: how to get at the directory.
        accept_loss: whether to make another table of positions if it is missing or damaged.
        progress: is kept up to date.
    """

    def __init__(
        self,
        root: Path,
        namespaces: Namespaces,
        codec: SpecCodec,
        encode: Encode,
        policy: SnapshotPolicy | None = None,
        disk: Disk | None = None,
        *,
        accept_loss: bool = False,
        progress: RecoveryProgress | None = None,
    ) -> None:
        self._progress = progress or RecoveryProgress()
        self._disk = disk or Disk()
        self._catalog = Catalog(self._disk, root, accept_loss=accept_loss)
        self._namespaces = namespaces
        self._codec = codec
        self._encode = encode
        self._policy = policy or SnapshotPolicy()
        self._durable_positions = self._catalog.positions
        self._history = JournalHistory()
        self._log = DirectoryLog(self._disk, root, namespaces)

    def run(self) -> DurabilityManager:
        """Recovers everything; blocks for as long as that takes.

        Returns:
            What makes the sessions durable from now on.

        Raises:
            DirectoryError: a file that all sessions depend on is missing, of another directory or of a
                newer format; nothing was moved.
        """
        try:
            return self._run()
        except BaseException:
            self._catalog.close()
            raise

    def examine(self) -> Examination:
        """Reads everything, and changes nothing on the disk.

        Raises:
            DirectoryError: as `run`.
        """
        try:
            self._read_journal()
            self._log.recover(self._history, self._durable_positions)
            return Examination(self._catalog, self._history, self._log, self._examine_all())
        except BaseException:
            self._catalog.close()
            raise

    def _run(self) -> DurabilityManager:
        started = time.perf_counter()
        self._read_journal()
        self._log.recover(self._history, self._durable_positions)
        self._log.redo_moves()
        examined = self._examine_all()
        # Only now is anything moved: until here, a file of a newer format ends the start.
        restored = [found for found in examined if isinstance(found, RestoredSession)]
        if not self._log.is_complete:
            files = [file for found in restored for file in found.durability.folder.snapshots() if file.kept]
            self._log.kept |= {str(file.path.relative_to(self._catalog.root)) for file in files}
        for found in examined:
            if isinstance(found, RestoredSession):
                self._replace_damaged_snapshots(found)
            else:
                self._move_to_quarantine(found)
        self._catalog.remove_leftovers()
        self._report_lost({found.durability.folder.path.name for found in restored})
        for found in restored:
            self._log.folders[found.durability.folder.path.name] = found.durability.folder.owner
        if self._log.is_complete:
            # Of a session in quarantine as well: its folder may be put back.
            self._durable_positions.retain_owners([DIRECTORY, *self._log.folders.values()])
        journal = Journal(
            self._disk,
            self._catalog.journal,
            self._durable_positions,
            self._catalog.identity,
            self._history.segments,
            self._policy.segment_bytes,
        )
        self._log.attach_journal(journal)
        self._history.clear()
        durability_manager = DurabilityManager(
            self._catalog, journal, self._log, self._codec, self._encode, self._policy
        )
        for found in restored:
            durability_manager.add_session(found.durability)
        seconds = round(time.perf_counter() - started, 3)
        damaged = sum(namespace.store.damaged_count for namespace in self._namespaces)
        durability_manager.recovery = RecoveryCounts(len(restored), damaged, seconds)
        counts = {"sessions": len(restored), "damaged": damaged, "seconds": seconds}
        _log.info("recovered", extra={"facts": counts})
        return durability_manager

    def _read_journal(self) -> None:
        journal = self._catalog.journal
        self._history = read_journal(self._disk, journal, self._catalog.identity)
        self._check_segments()
        for path in self._history.strays:
            _log.warning("%s is no part of the journal, and is ignored", path)
        for path, hole in self._history.holes:
            _log.warning("%s: bytes %d to %d are no record", path, hole.start, hole.end)
        for text in self._durable_positions.damaged:
            _log.warning("%s: %s", journal / POSITIONS, text)

    def _check_segments(self) -> None:
        check_segments(self._catalog.journal, self._history.segments, self._durable_positions)

    def _examine_all(self) -> list[RestoredSession | DamagedSession]:
        """Restores every session that can be restored exactly; changes nothing on the disk."""
        known = self._log.folders if self._log.is_complete else None
        examined: list[RestoredSession | DamagedSession] = []
        self._progress.known = len(self._log.folders)
        reported = time.monotonic()
        with self._lift_limits():
            for folder in self._catalog.iterate_sessions(known):
                if time.monotonic() - reported > PROGRESS_SECONDS:
                    reported = time.monotonic()
                    progress = {"sessions": len(examined), "of": self._progress.known}
                    _log.info("recovering", extra={"facts": progress})
                examined.append(self._examine(folder))
                self._progress.examined = len(examined)
        return examined

    @contextlib.contextmanager
    def _lift_limits(self) -> Iterator[None]:
        """Suspends limits: acknowledged state is restored even if limits are lower now."""
        budget = self._namespaces.budget
        limits, budget.limits = budget.limits, {}
        try:
            yield
        finally:
            budget.limits = limits

    def _examine(self, folder: SessionFolder | tuple[str, DamagedError]) -> RestoredSession | DamagedSession:
        if not isinstance(folder, SessionFolder):
            name, error = folder
            owner = self._log.folders.get(name)
            return DamagedSession(self._catalog.sessions / name, str(error), owner)
        try:
            return self._restore_session(folder)
        except UnknownFormatError as error:
            raise DirectoryError(
                f"{folder.path}: {error}; nothing was changed: start the newer server, or restore a backup"
            ) from error
        except DirectoryError:
            raise
        except DamagedError as error:
            return DamagedSession(folder.path, str(error), folder.owner)
        except Exception as error:
            # Any other error affects this session only.
            _log.exception("defect while %s was recovered", folder.path)
            return DamagedSession(folder.path, f"{type(error).__name__}: {error}", folder.owner)

    def _restore_session(self, folder: SessionFolder) -> RestoredSession:
        """Restores the session of a folder from its last snapshot, or an earlier one and the journal.

        Raises:
            DamagedError: there is no way to be sure of it.
        """
        if folder.owner not in self._durable_positions:
            raise DamagedError(f"{POSITIONS} has no entry of it, so nothing proves that it is complete")
        last = self._attach_records(folder)
        problems = []
        damaged: list[SnapshotFile] = []
        for file in folder.snapshots():
            try:
                payloads = self._history.find_payloads_after(
                    folder.owner, file.number, self._durable_positions
                )
                durability = self._restore_snapshot(folder, file, payloads)
            except UnknownFormatError:
                raise
            except DamagedError as error:
                problems.append(f"{file.path.name}: {error}")
                damaged.append(file)
                continue
            durability.is_incomplete = bool(damaged) or last > file.number
            return RestoredSession(durability, damaged)
        raise DamagedError("; ".join(problems) or "it has no snapshot")

    def _attach_records(self, folder: SessionFolder) -> int:
        """Reads the records that quarantine has kept of a session; returns the number of the last, or 0."""
        aside = self._catalog.list_quarantined().get(folder.session_id, [])
        attached = folder.list_own_segments()
        for place in aside:
            attached += SessionFolder(place, "", folder.owner).list_own_segments()
        present = {segment.path.name for segment in self._history.segments}
        last = 0
        for path in {path.name: path for path in attached if path.name not in present}.values():
            segment = self._history.read_segment(self._disk, path, self._catalog.identity, only=folder.owner)
            last = max(last, segment.last.get(folder.owner, 0))
        return last

    def _restore_snapshot(
        self, folder: SessionFolder, file: SnapshotFile, payloads: Sequence[memoryview]
    ) -> SessionDurability[Session]:
        contents = self._catalog.read_snapshot(file)
        namespace, session_id = parse_folder_name(folder.session_id)
        store, requests = self._namespaces[namespace].store, self._namespaces[namespace].requests
        session = decode_snapshot(contents, self._codec, session_id, store.backend, store.budget)
        facts = decode_metadata(contents)
        if session.step != file.step:
            raise DamagedError("it is another snapshot than its name says")
        durability = SessionDurability(session, requests, folder, file.number, file.number, file.step)
        for state in facts["requests"]:
            requests.restore_answer(AnsweredRequest.from_json(state, folder.owner))
        session.durability = durability
        for payload in payloads:
            self._replay_record(durability, payload)
        store.add(session)
        return durability

    def _replay_record(self, durability: SessionDurability[Session], payload: memoryview) -> None:
        kind, outcome, request = replay_record(durability.session, payload, self._codec)
        durability.count_recorded(len(payload))
        if request.key:
            answer = self._encode(kind, durability.session, outcome)
            durability.requests.restore_answer(
                AnsweredRequest(request, kind, answer, durability.folder.owner)
            )

    def _replace_damaged_snapshots(self, found: RestoredSession) -> None:
        for file in found.damaged_snapshots:
            place = self._catalog.move_to_quarantine(file.path)
            _log.warning("%s was damaged and is now %s; the session is whole", file.path, place)
        root, folder = self._catalog.root, found.durability.folder
        lost = {str(file.path.relative_to(root)) for file in found.damaged_snapshots} & self._log.kept
        there = {str(file.path.relative_to(root)) for file in folder.snapshots()}
        of_folder = {path for path in self._log.kept if path.split("/")[1] == folder.path.name}
        for path in sorted(of_folder - there):
            _log.error("%s, a snapshot that a client asked for, is missing or damaged", root / path)
        if lost:
            self._log.kept -= lost
            self._log.outdated = True

    def _move_to_quarantine(self, found: DamagedSession) -> None:
        """Moves a session out of the way, with the segments that may hold records of it."""
        self._catalog.copy_segments(self._history.list_segments_of(found.owner), found.path)
        place = self._catalog.move_to_quarantine(found.path)
        _log.error("%s is damaged and was moved to %s: %s", found.path.name, place, found.cause)

    def _report_lost(self, there: set[str]) -> None:
        """Marks sessions as damaged that are in quarantine, or that were created and are missing."""
        aside = self._catalog.list_quarantined()
        for name in sorted(self._log.folders.keys() - there - aside.keys()):
            place = self._catalog.make_quarantine(name)
            self._catalog.copy_segments(self._history.list_segments_of(self._log.folders[name]), place)
            aside[name] = [place]
        for name in sorted(aside.keys() - there):
            if any(SessionFolder(place, "", 0).snapshots() for place in aside[name]):
                text = "%s is in quarantine, in %s: repair its files and put it back, or delete the session"
            else:
                text = "the folder of %s is missing, and the session was not deleted; its records are in %s"
            _log.error(text, name, aside[name][-1])
            namespace, session_id = parse_folder_name(name)
            self._namespaces[namespace].store.add_damaged(session_id)
