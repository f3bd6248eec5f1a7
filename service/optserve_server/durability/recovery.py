"""Recovery at start-up: every session is restored as acknowledged, or quarantined and reported."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optserve_server.durability.change_records import replay
from optserve_server.durability.durability_manager import DurabilityManager, Encode, SnapshotPolicy, names_of
from optserve_server.durability.snapshot_codec import decode_snapshot, facts_of
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import AnsweredRequest, SessionDurability
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.storage.catalog import Catalog, SessionFolder, SnapshotFile
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk
from optserve_server.storage.history import History, read
from optserve_server.storage.intent_log import Intent
from optserve_server.storage.journal import Journal

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """Content of a data directory.

    Attributes:
        durability_manager: looks after the sessions from now on.
        answered: the requests that were answered, by namespace, oldest first.
    """

    durability_manager: DurabilityManager
    answered: Sequence[tuple[str, AnsweredRequest]]


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
        self._durable_positions = DurablePositions(self._disk, self._catalog.journal / "heads")
        self._history = History()

    def run(self) -> Recovered:
        """Recovers everything; blocks for as long as that takes."""
        started = time.perf_counter()
        notes = self._catalog.complete()
        self._history = read(self._disk, self._catalog.journal)
        for path, hole in self._history.holes:
            _log.warning("%s: bytes %d to %d are no record", path, hole.start, hole.end)
        with self._lift_limits():
            found = [self._recover(folder) for folder in self._catalog.folders()]
        durability = [one for one in found if one is not None]
        self._report_aside()
        self._durable_positions.keep(one.folder.owner for one in durability)
        journal = Journal(
            self._disk,
            self._catalog.journal,
            self._durable_positions,
            self._history.segments,
            self._policy.segment_bytes,
        )
        self._history.forget()
        durability_manager = DurabilityManager(
            self._catalog, self._durable_positions, journal, self._codec, self._encode, self._policy
        )
        for one in durability:
            durability_manager.watch(one)
        facts = {"sessions": len(durability), "seconds": round(time.perf_counter() - started, 3)}
        _log.info("recovered", extra={"facts": facts})
        answered = [(one.namespace, answer) for one in durability for answer in one.answered]
        return Recovered(
            durability_manager, [*answered, *(_read_intent(note) for note in notes if note.request)]
        )

    @contextlib.contextmanager
    def _lift_limits(self) -> Iterator[None]:
        """Suspends limits: acknowledged state is restored even if limits are lower now."""
        budget = self._namespaces.budget
        limits, budget.limits = budget.limits, {}
        try:
            yield
        finally:
            budget.limits = limits

    def _recover(self, folder: SessionFolder | tuple[str, DamagedError]) -> SessionDurability[Session] | None:
        if not isinstance(folder, SessionFolder):
            self._set_aside(self._catalog.sessions / folder[0], str(folder[1]), None)
            return None
        try:
            return self._restore_session(folder)
        except DamagedError as error:
            self._set_aside(folder.path, str(error), folder.owner)
        except Exception as error:
            # Any other error affects this session only.
            _log.exception("defect while %s was recovered", folder.path)
            self._set_aside(folder.path, f"{type(error).__name__}: {error}", folder.owner)
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
                durability = self._from(folder, file)
            except DamagedError as error:
                problems.append(f"{file.path.name}: {error}")
                damaged.append(file)
                continue
            for bad in damaged:
                place = self._catalog.set_aside(bad.path)
                _log.warning("%s was damaged and is now %s; the session is whole", bad.path, place)
            return durability
        raise DamagedError("; ".join(problems) or "it has no snapshot")

    def _from(self, folder: SessionFolder, file: SnapshotFile) -> SessionDurability[Session]:
        contents = self._catalog.read(file)
        payloads = self._history.after(folder.owner, file.number, self._durable_positions)
        namespace, session_id = names_of(folder.path.name)
        store = self._namespaces[namespace].store
        session = decode_snapshot(contents, self._codec, session_id, store.backend, store.budget)
        facts = facts_of(contents)
        if facts["number"] != file.number or session.step != file.step:
            raise DamagedError("it is another snapshot than its name says")
        durability = SessionDurability(session, namespace, folder, file.number, file.number, file.step)
        durability.answered.extend(AnsweredRequest.of(state) for state in facts["requests"])
        session.durability = durability
        for payload in payloads:
            self._replay(durability, payload)
        store.add(session)
        return durability

    def _replay(self, durability: SessionDurability[Session], payload: memoryview) -> None:
        done = replay(durability.session, payload, self._codec)
        durability.count_recorded(len(payload))
        if done.request.key:
            answer = self._encode(done.kind, durability.session, done.outcome)
            durability.answered.append(AnsweredRequest(done.request, done.kind, answer))

    def _set_aside(self, path: Path, why: str, owner: int | None) -> None:
        """Moves a session out of the way, with the segments that may hold records of it."""
        place = self._catalog.set_aside(path)
        _log.error("%s is damaged and was moved to %s: %s", path.name, place, why)
        for segment in self._history.segments:
            if owner is None or owner in segment.last:
                with contextlib.suppress(OSError):
                    self._disk.link(segment.path, place / segment.path.name)

    def _report_aside(self) -> None:
        for name in self._catalog.aside():
            namespace, session_id = names_of(name)
            self._namespaces[namespace].store.miss(session_id)


def _read_intent(note: Intent) -> tuple[str, AnsweredRequest]:
    namespace, _ = names_of(note.folder)
    return namespace, AnsweredRequest.of((note.request, note.content, note.kind.value, note.answer))
