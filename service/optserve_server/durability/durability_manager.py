"""Durability manager: journal records before changes, periodic snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from optserve_server.durability.disk_state import DiskState
from optserve_server.durability.snapshot_codec import encode_snapshot
from optserve_server.errors import DomainError
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import AnsweredRequest, SessionDurability
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.change import Change, ChangeKind, Request
from optserve_server.storage import snapshot
from optserve_server.storage.catalog import Catalog, SessionFolder, SnapshotFile
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Beside, Piece
from optserve_server.storage.journal import Journal, Record
from optserve_server.storage.payload import size_of

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


def folder_name(namespace: str, session_id: str) -> str:
    """The name of a session's folder."""
    return f"{urllib.parse.quote(namespace, safe='')}@{session_id}" if namespace else session_id


def names_of(folder: str) -> tuple[str, str]:
    """The namespace and the id of the session of that folder."""
    namespace, _, session_id = folder.rpartition("@")
    return urllib.parse.unquote(namespace), session_id


class DurabilityManager:
    """Makes sessions durable. Its coroutines run on the event loop; access to the disk runs in threads.

    Args:
        catalog: the data directory.
        durable_positions: how far the sessions' records go.
        journal: where changes are recorded.
        codec: writes specifications.
        encode: gives answers that are kept.
        policy: when snapshots are written.

    Attributes:
        saves: snapshots that were written.
        failed_saves: those that were to be written in the background and could not.
        disk_state: whether the disk takes what is written.
    """

    def __init__(
        self,
        catalog: Catalog,
        durable_positions: DurablePositions,
        journal: Journal,
        codec: SpecCodec,
        encode: Encode,
        policy: SnapshotPolicy,
    ) -> None:
        self.catalog = catalog
        self.journal = journal
        self.codec = codec
        self.encode = encode
        self.saves = self.failed_saves = 0
        self.disk_state = DiskState(catalog.disk, catalog.root)
        self._durable_positions = durable_positions
        self._policy = policy
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="storage")
        self._watched: dict[int, SessionDurability[Session]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outcomes: deque[tuple[asyncio.Future[None], OSError | None]] = deque()

    def watch(self, durability: SessionDurability[Session]) -> None:
        """Looks after a session from now on."""
        self._watched[durability.folder.owner] = durability
        durability.session.durability = durability

    def create(self, namespace: str, kind: ChangeKind, request: Request, session: Session) -> None:
        """Creates a session's folder with its first snapshot; blocks until they are durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; nothing was made.
        """
        spec = session.spec.durability
        if spec is None or spec.mode is DurabilityMode.EPHEMERAL:
            return
        name = folder_name(namespace, session.id)
        # The answer says what will be: that the session is kept.
        nowhere = SessionFolder(self.catalog.sessions / name, name, 0)
        session.durability = durability = SessionDurability(
            session, namespace, nowhere, saved_step=session.step
        )
        if request.key:
            durability.answered.append(AnsweredRequest(request, kind, self.encode(kind, session, None)))
        frozen = encode_snapshot(
            session, self.codec, number=0, requests=[one.state() for one in durability.answered]
        )
        with self.disk_state.refusing():
            durability.folder = self.catalog.create(
                name,
                lambda put: snapshot.write(put, frozen.tensors, frozen.metadata),
                number=0,
                step=session.step,
            )
        self.watch(durability)

    async def record(self, durability: SessionDurability[Session], change: Change[Session, Any]) -> int:
        """Records a change before it is made. The session must be locked.

        Args:
            durability: of the session.
            change: the change, prepared.

        Returns:
            Bytes of the payload; 0 if there is none.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; there is no record.
        """
        if not durability.journals:
            return 0
        if not durability.unbroken:
            # Changes that are in no record came before: they have to be saved first.
            with self.disk_state.refusing():
                number, step = durability.number, durability.session.step
                await self.in_thread(lambda: self._begin_snapshot(durability, number, is_kept=False).finish())
                self._note_saved(durability, number, step)
        record = partial(change.record, self.codec)
        payload = record() if durability.session.is_small else await self.in_thread(record)
        with self.disk_state.refusing():
            await self._append(durability, payload)
        return size_of(payload)

    def count_change(
        self, durability: SessionDurability[Session], kind: ChangeKind, payload_bytes: int
    ) -> None:
        """Counts an applied change, and starts a snapshot when one is due."""
        if durability.journals and durability.unbroken:
            durability.count_recorded(payload_bytes)
        else:
            durability.count_unrecorded()
        soon = kind is not ChangeKind.STEP and not durability.journals
        if soon or self._is_due(durability):
            self.save_soon(durability)

    async def save(
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
            with self.disk_state.refusing():
                # To write takes the session's lock, to wait for the disk does not.
                async with durability.session.lock:
                    durability.session.check_open()
                    number, step = durability.number, durability.session.step
                    file = await self.in_thread(
                        lambda: self._begin_snapshot(durability, number, is_kept=asked is not None)
                    )
                made = SnapshotFile(file.path, number, step, asked is not None)
                await self.in_thread(lambda: self._finish(durability, file, made, asked))
            self._note_saved(durability, number, step)
            await self.in_thread(lambda: self._tidy(durability))
            return made

    def save_soon(self, durability: SessionDurability[Session]) -> None:
        """Saves a session in the background; a failure is logged, and tried again later."""
        if durability.waits:
            return
        durability.waits = True
        self._in_background(self._save_quietly(durability))

    async def replace(self, durability: SessionDurability[Session], state: Session) -> None:
        """Saves another state as what follows the session's last change. The session must be locked.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; nothing was saved.
        """
        number = durability.number + 1
        with self.disk_state.refusing():
            await self.in_thread(
                lambda: self._begin_snapshot(durability, number, is_kept=False, state=state).finish()
            )
        durability.number = number
        self._note_saved(durability, number, state.step)

    async def drop(
        self, durability: SessionDurability[Session], files: Sequence[SnapshotFile], asked: Request
    ) -> None:
        """Deletes snapshots; the last one is left to the server, which deletes it with the next.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        answer = self.encode(ChangeKind.DROP, durability.session, None)
        note = AnsweredRequest(asked, ChangeKind.DROP, answer).note(durability.folder, files)
        with self.disk_state.refusing():
            await self.in_thread(lambda: self.catalog.release(durability.folder, note))

    def forget(self, durability: SessionDurability[Session], request: Request) -> None:
        """Deletes a session's files for ``request``; blocks until that is durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; they are still there.
        """
        with self.disk_state.refusing():
            self.catalog.delete(
                durability.folder, AnsweredRequest(request, ChangeKind.DELETE, b"").note(durability.folder)
            )
        self._durable_positions.forget(durability.folder.owner)
        self._watched.pop(durability.folder.owner, None)
        durability.session.durability = None

    def discard(self, name: str, request: Request) -> None:
        """Deletes the quarantined files of the session in that folder; blocks until that is durable.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        folder = SessionFolder(self.catalog.sessions / name, name, 0)
        with self.disk_state.refusing():
            self.catalog.discard(AnsweredRequest(request, ChangeKind.DELETE, b"").note(folder))

    def sweep(self) -> None:
        """Saves what is due; called now and then."""
        now = time.monotonic()
        if self.disk_state.is_due():
            self._in_background(self.in_thread(self.disk_state.try_again))
        if self.catalog.intent_log.outdated:
            self._in_background(self.in_thread(self.catalog.intent_log.settle))
        for durability in tuple(self._watched.values()):
            if durability.due(now):
                self.save_soon(durability)
        if self.journal.byte_count > self._policy.journal_bytes:
            for owner in self.journal.find_pinning_owners(self._list_saved_numbers()):
                self.save_soon(self._watched[owner])

    async def close(self, seconds: float) -> None:
        """Saves every session that has changed, for up to about ``seconds``, and closes the files."""
        deadline = time.monotonic() + seconds
        # Those that have no journal first: for the others it is only a quicker start.
        for durability in sorted(
            self._watched.values(), key=lambda durability: durability.journals and durability.unbroken
        ):
            if durability.changed and not durability.session.damaged and time.monotonic() < deadline:
                await self._save_quietly(durability)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, deadline - time.monotonic()))
        self._threads.shutdown()
        self.journal.close()
        self._durable_positions.close()
        self.catalog.close()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs ``work`` beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append(self, durability: SessionDurability[Session], pieces: Sequence[Piece]) -> None:
        """Appends the record of the session's next change, and waits until it is durable."""
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def on_durable(error: OSError | None) -> None:
            self._outcomes.append((durable, error))
            if len(self._outcomes) == 1:  # of those before it, the loop knows already
                loop.call_soon_threadsafe(self._settle)

        self.journal.append(Record(durability.folder.owner, durability.number + 1, pieces, on_durable))
        await durable

    def _settle(self) -> None:
        """Passes on the outcome of each record of a group, or of several."""
        while self._outcomes:
            durable, error = self._outcomes.popleft()
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

    def _begin_snapshot(
        self, of: SessionDurability[Session], number: int, *, is_kept: bool, state: Session | None = None
    ) -> Beside:
        """Writes a snapshot that still has to be finished."""
        session = of.session if state is None else state
        requests = [answered.state() for answered in of.answered]
        frozen = encode_snapshot(session, self.codec, number=number, requests=requests)
        file = Beside(self.catalog.disk, of.folder.place(number, session.step, kept=is_kept))
        try:
            snapshot.write(file.write, frozen.tensors, frozen.metadata)
        except BaseException:
            with contextlib.suppress(OSError):
                file.abandon()
            raise
        return file

    def _finish(
        self, durability: SessionDurability[Session], file: Beside, made: SnapshotFile, asked: Request | None
    ) -> None:
        if asked is None:
            file.finish()
            return
        # Length and time of the file are what they will be in its place.
        answer = self.encode(ChangeKind.SAVE, durability.session, replace(made, path=file.temporary))
        self.catalog.keep(
            file, AnsweredRequest(asked, ChangeKind.SAVE, answer).note(durability.folder, [made])
        )

    def _note_saved(self, durability: SessionDurability[Session], number: int, step: int) -> None:
        self._durable_positions.note(durability.folder.owner, number)
        self.saves += 1
        durability.note_saved(number, step)

    def _tidy(self, durability: SessionDurability[Session]) -> None:
        """Deletes what is no longer needed; where that fails, the next time may go well."""
        try:
            self.catalog.prune(durability.folder, self._policy.generations)
            self.journal.release(self._list_saved_numbers(), self._policy.journal_bytes // 2)
        except OSError as error:
            _log.warning("old files are still there: %s", error)

    def _list_saved_numbers(self) -> dict[int, int]:
        return {owner: durability.saved_number for owner, durability in tuple(self._watched.items())}

    def _is_due(self, durability: SessionDurability[Session]) -> bool:
        if not durability.journals:
            return durability.due(time.monotonic())
        policy = self._policy
        room = max(policy.session_bytes, policy.session_share * durability.session.resident_bytes)
        return durability.records >= policy.session_records or durability.record_bytes > room

    async def _save_quietly(self, durability: SessionDurability[Session]) -> None:
        try:
            await self.save(durability)
        except DomainError as error:
            if not durability.session.closed:
                name = f"sessions/{durability.session.id}"
                self.failed_saves += 1
                _log.warning("%s was not saved: %s", name, error.message)
        finally:
            durability.waits = False
            durability.saved_at = time.monotonic()  # the next attempt is due as after a success
