"""Recovery at start-up: every session is restored as acknowledged, or quarantined and reported."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from optserve_server.durability.change_records import replay
from optserve_server.durability.directory_log import DIRECTORY, DirectoryLog, parse_folder_name
from optserve_server.durability.durability_manager import DurabilityManager, Encode, SnapshotPolicy
from optserve_server.durability.snapshot_codec import decode_metadata, decode_snapshot
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.request_ledger import AnsweredRequest
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.storage.catalog import Catalog, SessionFolder, SnapshotFile
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk
from optserve_server.storage.journal import Journal
from optserve_server.storage.journal_history import JournalHistory, read_journal

_log = logging.getLogger(__name__)


class Recovery:
    """Restores the sessions of a data directory.

    Args:
        root: the directory.
        namespaces: takes the sessions.
        codec: reads specifications.
        encode: encodes answers again.
        policy: for afterwards.
        disk: how to get at the directory.
    """

    def __init__(
        self,
        root: Path,
        namespaces: Namespaces,
        codec: SpecCodec,
        encode: Encode,
        policy: SnapshotPolicy | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._disk = disk or Disk()
        self._catalog = Catalog(self._disk, root)
        self._namespaces = namespaces
        self._codec = codec
        self._encode = encode
        self._policy = policy or SnapshotPolicy()
        self._durable_positions = DurablePositions(self._disk, self._catalog.journal / "positions")
        self._history = JournalHistory()

    def run(self) -> DurabilityManager:
        """Recovers everything; blocks for as long as that takes.

        Returns:
            What makes the sessions durable from now on.
        """
        started = time.perf_counter()
        self._history = read_journal(self._disk, self._catalog.journal)
        for path, hole in self._history.holes:
            _log.warning("%s: bytes %d to %d are no record", path, hole.start, hole.end)
        directory_log = DirectoryLog(self._disk, self._catalog.root, self._namespaces)
        directory_log.recover(self._history, self._durable_positions)
        self._catalog.remove_leftovers()
        with self._lift_limits():
            found = [self._recover_session(folder) for folder in self._catalog.folders()]
        durability = [one for one in found if one is not None]
        self._report_lost(directory_log.folders, {one.folder.path.name for one in durability})
        self._durable_positions.retain_owners([DIRECTORY, *(one.folder.owner for one in durability)])
        journal = Journal(
            self._disk,
            self._catalog.journal,
            self._durable_positions,
            self._history.segments,
            self._policy.segment_bytes,
        )
        directory_log.attach_journal(journal)
        self._history.clear()
        durability_manager = DurabilityManager(
            self._catalog,
            self._durable_positions,
            journal,
            directory_log,
            self._codec,
            self._encode,
            self._policy,
        )
        for one in durability:
            durability_manager.add_session(one)
        counts = {"sessions": len(durability), "seconds": round(time.perf_counter() - started, 3)}
        _log.info("recovered", extra={"facts": counts})
        return durability_manager

    @contextlib.contextmanager
    def _lift_limits(self) -> Iterator[None]:
        """Suspends limits: acknowledged state is restored even if limits are lower now."""
        budget = self._namespaces.budget
        limits, budget.limits = budget.limits, {}
        try:
            yield
        finally:
            budget.limits = limits

    def _recover_session(
        self, folder: SessionFolder | tuple[str, DamagedError]
    ) -> SessionDurability[Session] | None:
        if not isinstance(folder, SessionFolder):
            self._move_to_quarantine(self._catalog.sessions / folder[0], str(folder[1]), None)
            return None
        try:
            return self._restore_session(folder)
        except DamagedError as error:
            self._move_to_quarantine(folder.path, str(error), folder.owner)
        except Exception as error:
            # Any other error affects this session only.
            _log.exception("defect while %s was recovered", folder.path)
            self._move_to_quarantine(folder.path, f"{type(error).__name__}: {error}", folder.owner)
        return None

    def _restore_session(self, folder: SessionFolder) -> SessionDurability[Session]:
        """Restores the session of a folder from its last snapshot, or an earlier one and the journal.

        Raises:
            DamagedError: there is no way to be sure of it.
        """
        problems = []
        damaged: list[SnapshotFile] = []
        for file in folder.snapshots():
            try:
                durability = self._restore_snapshot(folder, file)
            except DamagedError as error:
                problems.append(f"{file.path.name}: {error}")
                damaged.append(file)
                continue
            for bad in damaged:
                place = self._catalog.move_to_quarantine(bad.path)
                _log.warning("%s was damaged and is now %s; the session is whole", bad.path, place)
            return durability
        raise DamagedError("; ".join(problems) or "it has no snapshot")

    def _restore_snapshot(self, folder: SessionFolder, file: SnapshotFile) -> SessionDurability[Session]:
        contents = self._catalog.read_snapshot(file)
        payloads = self._history.find_payloads_after(folder.owner, file.number, self._durable_positions)
        namespace, session_id = parse_folder_name(folder.path.name)
        store, requests = self._namespaces[namespace].store, self._namespaces[namespace].requests
        session = decode_snapshot(contents, self._codec, session_id, store.backend, store.budget)
        facts = decode_metadata(contents)
        if facts["number"] != file.number or session.step != file.step:
            raise DamagedError("it is another snapshot than its name says")
        durability = SessionDurability(session, requests, folder, file.number, file.number, file.step)
        for state in facts["requests"]:
            requests.restore(AnsweredRequest.from_json(state, folder.owner))
        session.durability = durability
        for payload in payloads:
            self._replay_record(durability, payload)
        store.add(session)
        return durability

    def _replay_record(self, durability: SessionDurability[Session], payload: memoryview) -> None:
        kind, outcome, request = replay(durability.session, payload, self._codec)
        durability.count_recorded(len(payload))
        if request.key:
            answer = self._encode(kind, durability.session, outcome)
            durability.requests.restore(AnsweredRequest(request, kind, answer, durability.folder.owner))

    def _move_to_quarantine(self, path: Path, why: str, owner: int | None) -> None:
        """Moves a session out of the way, with the segments that may hold records of it."""
        place = self._catalog.move_to_quarantine(path)
        _log.error("%s is damaged and was moved to %s: %s", path.name, place, why)
        for segment in self._history.segments:
            if owner is None or owner in segment.last:
                with contextlib.suppress(OSError):
                    self._disk.link(segment.path, place / segment.path.name)

    def _report_lost(self, folders: set[str], there: set[str]) -> None:
        """Marks sessions as damaged that are in quarantine, or that were created and are missing."""
        aside = self._catalog.list_quarantined().keys()
        for name in folders - there - aside:
            _log.error("the folder of %s is missing, and the session was not deleted", name)
        for name in (folders - there) | aside:
            namespace, session_id = parse_folder_name(name)
            self._namespaces[namespace].store.add_damaged(session_id)
        folders |= there
