"""Durability manager: journal records before changes, periodic snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from optserve_server.durability.backup_source import BackupSource, pin_directory
from optserve_server.durability.directory_log import DIRECTORY, DirectoryLog, folder_name
from optserve_server.durability.disk_state import DiskState
from optserve_server.durability.snapshot_codec import encode_snapshot
from optserve_server.errors import DomainError
from optserve_server.resources.fair_queue import Flow
from optserve_server.resources.fair_threads import FairThreads
from optserve_server.sessions.namespaces import Namespace
from optserve_server.sessions.request_ledger import AnsweredRequest
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.session_change import OF_STEPS, Change, ChangeKind, Request
from optserve_server.storage import snapshot
from optserve_server.storage.catalog import Catalog, SnapshotFile
from optserve_server.storage.files import Piece, TemporaryFile
from optserve_server.storage.journal import Journal, Record
from optserve_server.storage.record_payload import add_time

T = TypeVar("T")
Encode = Callable[[ChangeKind, Session, object], bytes]
"""The serialized answer to a change."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotPolicy:
    """Policy of automatic snapshots: when they are written, and what is retained.

    Attributes:
        generations: snapshots of each session that no client requested.
        journal_bytes: journal beyond which the sessions that hold on to it are saved. Half of
            it is kept even if it is not needed, so that an earlier snapshot can replace
            a damaged one.
        segment_bytes: length at which a file of the journal ends.
        session_records: records of one session after which it is saved, so that to replay
            them takes seconds.
        session_share: how often its own size a session's records may be before it is saved.
        session_bytes: bytes of records that a session may have in any case.
    """

    generations: int = 2
    journal_bytes: int = 2 << 30
    segment_bytes: int = 64 << 20
    session_records: int = 10_000
    session_share: float = 4.0
    session_bytes: int = 64 << 20


@dataclass(frozen=True)
class RecoveryCounts:
    """What a recovery did.

    Attributes:
        restored: sessions that were restored.
        damaged: sessions that could not be restored exactly.
        seconds: its duration.
    """

    restored: int = 0
    damaged: int = 0
    seconds: float = 0.0


STORAGE_THREADS = 2
"""Threads for access to the disk of one namespace; there is one more for the others."""

ANSWERS_PER_SNAPSHOT = 64
"""Answered requests that a session's snapshot holds, beside its steps."""


class DurabilityManager:
    """Makes sessions durable. Its coroutines run on the event loop; access to the disk runs in threads.

    Args:
        catalog: the data directory.
        journal: where changes are recorded.
        directory_log: records and makes changes of the data directory itself.
        codec: writes specifications.
        encode: gives answers that are kept.
        policy: when snapshots are written.

    Attributes:
        saves: snapshots that were written.
        failed_saves: those that were to be written in the background and could not.
        disk_state: whether the disk takes what is written.
        recovery: what was done at the start.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        directory_log: DirectoryLog,
        codec: SpecCodec,
        encode: Encode,
        policy: SnapshotPolicy,
    ) -> None:
        self.catalog = catalog
        self.journal = journal
        self.directory_log = directory_log
        self.codec = codec
        self.encode = encode
        self.saves = self.failed_saves = 0
        self.recovery = RecoveryCounts()
        self.disk_state = DiskState(catalog.disk, catalog.root)
        self._durable_positions = catalog.positions
        self._policy = policy
        self._threads = FairThreads(STORAGE_THREADS, "storage")
        self._watched: dict[int, SessionDurability[Session]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deleting = threading.Lock()
        """Held while files are deleted that are no longer needed, and while a backup takes hold of them."""
        self._outcomes: deque[tuple[asyncio.Future[None], OSError | None]] = deque()

    def add_session(self, durability: SessionDurability[Session]) -> None:
        """Looks after a session from now on."""
        self._watched[durability.folder.owner] = durability
        durability.session.durability = durability

    def create_session_files(
        self, namespace: Namespace, kind: ChangeKind, request: Request, session: Session
    ) -> None:
        """Makes a session's place on the disk, with its first snapshot; blocks until that is durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; nothing was made.
        """
        spec = session.spec.durability
        if spec is None or spec.mode is DurabilityMode.EPHEMERAL:
            return
        folder = self.catalog.assign_folder(folder_name(namespace.name, session.id))
        # The answer states what will be: that the session is durable.
        session.durability = durability = SessionDurability(
            session, namespace.requests, folder, saved_step=session.step
        )
        answer = self.encode(kind, session, None) if request.key else b""
        answered = AnsweredRequest(request, kind, answer, folder.owner)
        requests = [answered.to_json()] if request.key else []
        frozen = encode_snapshot(session, self.codec, requests=requests)
        first = folder.plan_snapshot(0, session.step)
        metadata = {**first.metadata(), **frozen.metadata}
        write_snapshot = partial(snapshot.write_snapshot, tensors=frozen.tensors, metadata=metadata)
        with self.disk_state.convert_errors():
            moves = self.catalog.create_session_folder(folder, write_snapshot, session.step)
            try:
                self._durable_positions.add_owner(folder.owner)
                self.directory_log.commit(kind, folder.session_id, moves, owner=folder.owner)
            except BaseException:
                self._forget_owner(folder.owner)
                self.catalog.disk.remove(moves[0][0])
                raise
        namespace.requests.remember_answer(answered)
        self.add_session(durability)

    async def record_change(
        self, durability: SessionDurability[Session], change: Change[Session, Any]
    ) -> int:
        """Records a change before it is made. The session must be locked.

        Args:
            durability: of the session.
            change: the change, prepared.

        Returns:
            Bytes of the payload; 0 if there is none.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; there is no record.
        """
        if not durability.is_journaled:
            return 0
        if not durability.has_complete_journal:
            # Changes that are in no record came before: they have to be saved first.
            with self.disk_state.convert_errors():
                number, step = durability.number, durability.session.step
                await self.in_thread(
                    lambda: self._begin_snapshot(durability, number, is_kept=False).move_into_place(),
                    durability.session.budget,
                )
                self._note_saved(durability, number, step)
        record = partial(change.encode_record, self.codec)
        payload = (
            record()
            if durability.session.is_small
            else await self.in_thread(record, durability.session.budget)
        )
        payload = add_time(payload, durability.session.changed_at)
        with self.disk_state.convert_errors():
            return await self._append_durably(durability, payload)

    def count_change(
        self, durability: SessionDurability[Session], kind: ChangeKind, payload_bytes: int
    ) -> None:
        """Counts an applied change, and starts a snapshot when one is due."""
        if durability.is_journaled and durability.has_complete_journal:
            durability.count_recorded(payload_bytes)
        else:
            durability.count_unrecorded()
        soon = kind not in OF_STEPS and not durability.is_journaled
        if soon or self._is_snapshot_due(durability):
            self.save_soon(durability)

    async def save_session(
        self, durability: SessionDurability[Session], *, asked: Request | None = None
    ) -> SnapshotFile:
        """Saves a session.

        Args:
            durability: of the session.
            asked: the request for it; None if the server saves of its own accord.

        Raises:
            DomainError: STORAGE_FULL, STORAGE_UNAVAILABLE, or SESSION_NOT_FOUND if it was
                deleted meanwhile.
        """
        async with durability.saving:
            with self.disk_state.convert_errors():
                # To write takes the session's lock, to wait for the disk does not.
                async with durability.session.lock:
                    durability.session.check_open()
                    number, step = durability.number, durability.session.step
                    flow = durability.session.budget
                    file = await self.in_thread(
                        lambda: self._begin_snapshot(durability, number, is_kept=asked is not None), flow
                    )
                owner = durability.folder.owner
                made = SnapshotFile(file.path, owner, number, step, asked is not None)
                await self.in_thread(lambda: self._finish_snapshot(durability, file, made, asked), flow)
            self._note_saved(durability, number, step)
            await self.in_thread(lambda: self._delete_old_files(durability), flow)
            return made

    def save_soon(self, durability: SessionDurability[Session]) -> None:
        """Saves a session in the background; a failure is logged, and tried again later."""
        if durability.waits:
            return
        durability.waits = True
        self._start_background_task(self._save_quietly(durability))

    async def delete_snapshots(
        self, durability: SessionDurability[Session], files: Sequence[SnapshotFile], asked: Request
    ) -> None:
        """Deletes snapshots; the last one is left to the server, which deletes it with the next.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        answered = AnsweredRequest(
            asked, ChangeKind.DROP, self.encode(ChangeKind.DROP, durability.session, None)
        )
        folder = durability.folder

        def work() -> None:
            moves = self.catalog.plan_snapshot_deletion(folder, files)
            self.directory_log.commit(ChangeKind.DROP, folder.session_id, moves, answered)

        with self.disk_state.convert_errors():
            await self.in_thread(work, durability.session.budget)

    def delete_session(self, durability: SessionDurability[Session], request: Request) -> None:
        """Deletes a session's files, asked to by ``request``; blocks until that is durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; they are still there.
        """
        name = durability.folder.session_id
        paths = [durability.folder.path, *self.catalog.list_quarantined().get(name, [])]
        self._delete_paths(name, paths, request)
        self._forget_owner(durability.folder.owner)
        self._watched.pop(durability.folder.owner, None)
        durability.session.durability = None

    def delete_quarantined(self, name: str, request: Request) -> None:
        """Deletes what lies in quarantine of the session in that folder; blocks until that is durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        owner = self.directory_log.folders.get(name)
        self._delete_paths(name, self.catalog.list_quarantined().get(name, []), request)
        if owner is not None:
            self._forget_owner(owner)

    def _forget_owner(self, owner: int) -> None:
        with contextlib.suppress(OSError):  # the next start tries again
            self._durable_positions.remove_owner(owner)

    def _delete_paths(self, name: str, paths: Sequence[Path], request: Request) -> None:
        answered = AnsweredRequest(request, ChangeKind.DELETE, b"")
        with self.disk_state.convert_errors():
            self.directory_log.commit(ChangeKind.DELETE, name, self.catalog.plan_deletion(paths), answered)

    def save_due_sessions(self) -> None:
        """Saves what is due; called now and then."""
        now = time.monotonic()
        if self.disk_state.is_probe_due():
            self._start_background_task(self.in_thread(self.disk_state.probe_disk))
        for durability in tuple(self._watched.values()):
            if durability.is_incomplete or durability.is_snapshot_due(now):
                self.save_soon(durability)
        if self.journal.byte_count > self._policy.journal_bytes:
            for owner in self.journal.find_pinning_owners(self._list_saved_numbers()):
                if owner == DIRECTORY:
                    self.directory_log.outdated = True
                elif owner in self._watched:
                    self.save_soon(self._watched[owner])
        if self.directory_log.outdated:
            self._start_background_task(self.in_thread(self._checkpoint_directory))

    async def free_journal(self) -> None:
        """Saves every session, and frees all records that were written before.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        for durability in tuple(self._watched.values()):
            await self.save_session(durability)
        with self.disk_state.convert_errors():
            await self.in_thread(self.directory_log.checkpoint)
            await self.in_thread(partial(self.journal.delete_old_segments, self._list_saved_numbers(), 0))

    async def begin_backup(self) -> BackupSource:
        """Takes hold of the files of the directory as they are at one moment.

        Sessions with changes that are in no record are saved before.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE, when a session was to be saved.
            OSError: the files cannot get second names.
        """
        for durability in tuple(self._watched.values()):
            is_recorded = durability.is_journaled and durability.has_complete_journal
            if durability.has_unsaved_changes and not is_recorded and not durability.session.damaged:
                try:
                    await self.save_session(durability)
                except DomainError:
                    if not durability.session.closed:  # by a caller who deleted it
                        raise
        return await self.in_thread(
            lambda: pin_directory(self.catalog, self.journal, self.directory_log, self._deleting)
        )

    async def end_backup(self, source: BackupSource) -> None:
        """Lets go of the files that a backup has held."""
        await self.in_thread(lambda: self.catalog.disk.remove(source.folder))

    async def close(self, seconds: float) -> None:
        """Saves every session that has changed, for up to about ``seconds``, and closes the files."""
        deadline = time.monotonic() + seconds
        # Those that have no journal first: for the others it is only a quicker start.
        for durability in sorted(
            self._watched.values(),
            key=lambda durability: durability.is_journaled and durability.has_complete_journal,
        ):
            is_due = durability.has_unsaved_changes or durability.is_incomplete
            if is_due and not durability.session.damaged and time.monotonic() < deadline:
                await self._save_quietly(durability)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, deadline - time.monotonic()))
        # Threads may be waiting for the disk.
        closer = ThreadPoolExecutor(1, thread_name_prefix="storage-close")
        closing = asyncio.get_running_loop().run_in_executor(closer, self._close_files)
        closer.shutdown(wait=False)
        await asyncio.wait({closing}, timeout=max(0.1, deadline - time.monotonic()))
        if not closing.done():
            _log.warning("the disk was at work until the end")

    def _close_files(self) -> None:
        self._threads.close(wait=True)
        self.journal.close()
        self.catalog.close()

    async def in_thread(self, work: Callable[[], T], flow: Flow | None = None) -> T:
        """Runs ``work`` beside the event loop, in its namespace's turn: that of ``flow``."""
        return await asyncio.wrap_future(self._threads.submit(flow, work))

    def _start_background_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append_durably(self, durability: SessionDurability[Session], pieces: Sequence[Piece]) -> int:
        """Appends the record of the session's next change, waits until it is durable; returns its bytes."""
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def on_durable(error: OSError | None) -> None:
            self._outcomes.append((durable, error))
            if len(self._outcomes) == 1:  # of those before it, the loop knows already
                loop.call_soon_threadsafe(self._resolve_outcomes)

        flow = durability.session.budget
        record = Record(durability.folder.owner, durability.number + 1, pieces, on_durable, flow)
        self.journal.append(record)
        await durable
        return record.length

    def _resolve_outcomes(self) -> None:
        """Passes on the outcome of each record of a group, or of several."""
        while self._outcomes:
            durable, error = self._outcomes.popleft()
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

    def _begin_snapshot(self, of: SessionDurability[Session], number: int, *, is_kept: bool) -> TemporaryFile:
        """Writes a snapshot that is still to be finished."""
        requests = of.requests.to_json(of.folder.owner, ANSWERS_PER_SNAPSHOT)
        frozen = encode_snapshot(of.session, self.codec, requests=requests)
        generations = self._policy.generations
        planned = of.folder.plan_snapshot(number, of.session.step, is_kept=is_kept, generations=generations)
        with TemporaryFile(self.catalog.disk, planned.path) as file:
            snapshot.write_snapshot(file.write, frozen.tensors, {**planned.metadata(), **frozen.metadata})
        return file

    def _finish_snapshot(
        self,
        durability: SessionDurability[Session],
        file: TemporaryFile,
        made: SnapshotFile,
        asked: Request | None,
    ) -> None:
        if asked is None:
            file.move_into_place()
            return
        # Length and time of the file are what they will be in its place.
        answer = self.encode(ChangeKind.SAVE, durability.session, replace(made, path=file.temporary))
        folder, answered = durability.folder, AnsweredRequest(asked, ChangeKind.SAVE, answer)
        file.sync_and_close()
        with file:
            moves = self.catalog.plan_replacement(folder, file, made.step)
            self.directory_log.commit(ChangeKind.SAVE, folder.session_id, moves, answered)

    def _note_saved(self, durability: SessionDurability[Session], number: int, step: int) -> None:
        self._durable_positions.record_position(durability.folder.owner, number, number)
        self.saves += 1
        durability.note_saved(number, step)

    def _delete_old_files(self, durability: SessionDurability[Session]) -> None:
        """Deletes what is no longer needed; a failure is logged, and the next time tries again."""
        try:
            with self._deleting:
                self.catalog.prune_snapshots(durability.folder, self._policy.generations)
            self._release_segments()
        except OSError as error:
            _log.warning("old files are still there: %s", error)

    def _checkpoint_directory(self) -> None:
        """Makes earlier records of the directory unnecessary; the next sweep tries again after a failure."""
        with contextlib.suppress(OSError):
            self.directory_log.checkpoint()
            self._release_segments()

    def _release_segments(self) -> None:
        with self._deleting:
            self.journal.delete_old_segments(self._list_saved_numbers(), self._policy.journal_bytes // 2)

    def _list_saved_numbers(self) -> dict[int, int]:
        sessions = {owner: durability.saved_number for owner, durability in tuple(self._watched.items())}
        return {**sessions, DIRECTORY: self.directory_log.saved_number}

    def _is_snapshot_due(self, durability: SessionDurability[Session]) -> bool:
        if not durability.is_journaled:
            return durability.is_snapshot_due(time.monotonic())
        policy = self._policy
        room = max(policy.session_bytes, policy.session_share * durability.session.resident_bytes)
        return durability.records >= policy.session_records or durability.record_bytes > room

    async def _save_quietly(self, durability: SessionDurability[Session]) -> None:
        try:
            await self.save_session(durability)
        except DomainError as error:
            if not durability.session.closed:
                name = f"sessions/{durability.session.id}"
                self.failed_saves += 1
                _log.warning("%s was not saved: %s", name, error.message)
        finally:
            durability.waits = False
            durability.saved_at = time.monotonic()  # the next attempt is due as after a success
