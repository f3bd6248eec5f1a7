"""Keeping sessions on the disk: records before changes, snapshots now and then."""

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
from optserve_server.durability.snapshot_codec import freeze
from optserve_server.errors import DomainError
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import Answered, Kept
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.change import Change, ChangeKind, Request
from optserve_server.storage import snapshot
from optserve_server.storage.catalog import Catalog, SessionFolder, SnapshotFile
from optserve_server.storage.durable_positions import Heads
from optserve_server.storage.files import Beside, Piece
from optserve_server.storage.journal import Journal, Record
from optserve_server.storage.payload import size_of

T = TypeVar("T")
Encode = Callable[[ChangeKind, Session, object], bytes]
"""The serialized answer to a change."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """When snapshots are written by themselves, and what is kept.

    Attributes:
        generations: snapshots of each session that nobody asked for.
        journal_bytes: journal beyond which the sessions that hold on to it are saved. Half of
            it is kept even where nobody needs it, so that an earlier snapshot can stand in for
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


class Keeper:
    """Keeps sessions. Its coroutines belong to the event loop; what touches the disk runs in threads.

    Args:
        catalog: the data directory.
        heads: how far the sessions' records go.
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
        heads: Heads,
        journal: Journal,
        codec: SpecCodec,
        encode: Encode,
        policy: Policy,
    ) -> None:
        self.catalog = catalog
        self.journal = journal
        self.codec = codec
        self.encode = encode
        self.saves = self.failed_saves = 0
        self.disk_state = DiskState(catalog.disk, catalog.root)
        self._heads = heads
        self._policy = policy
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="storage")
        self._kept: dict[int, Kept[Session]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outcomes: deque[tuple[asyncio.Future[None], OSError | None]] = deque()

    def watch(self, kept: Kept[Session]) -> None:
        """Looks after a session from now on."""
        self._kept[kept.folder.owner] = kept
        kept.session.kept = kept

    def create(self, namespace: str, kind: ChangeKind, request: Request, session: Session) -> None:
        """Makes a session's place on the disk, with its first snapshot; blocks until that is safe.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; nothing was made.
        """
        durability = session.spec.durability
        if durability is None or durability.mode is DurabilityMode.EPHEMERAL:
            return
        name = folder_name(namespace, session.id)
        # The answer says what will be: that the session is kept.
        nowhere = SessionFolder(self.catalog.sessions / name, name, 0)
        session.kept = kept = Kept(session, namespace, nowhere, saved_step=session.step)
        if request.key:
            kept.answered.append(Answered(request, kind, self.encode(kind, session, None)))
        frozen = freeze(session, self.codec, number=0, requests=[one.state() for one in kept.answered])
        with self.disk_state.refusing():
            kept.folder = self.catalog.create(
                name,
                lambda put: snapshot.write(put, frozen.tensors, frozen.metadata),
                number=0,
                step=session.step,
            )
        self.watch(kept)

    async def record(self, kept: Kept[Session], change: Change[Session, Any]) -> int:
        """Records a change before it is made. The session must be locked.

        Args:
            kept: of the session.
            change: the change, prepared.

        Returns:
            Bytes of the payload; 0 where there is none.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; there is no record.
        """
        if not kept.journals:
            return 0
        if not kept.unbroken:
            # Changes that are in no record came before: they have to be saved first.
            with self.disk_state.refusing():
                number, step = kept.number, kept.session.step
                await self.in_thread(lambda: self._begun(kept, number, kept=False).finish())
                self._saved(kept, number, step)
        record = partial(change.record, self.codec)
        payload = record() if kept.session.is_small else await self.in_thread(record)
        with self.disk_state.refusing():
            await self._append(kept, payload)
        return size_of(payload)

    def changed(self, kept: Kept[Session], kind: ChangeKind, payload_bytes: int) -> None:
        """Counts a change that was made, and sees to it that it is saved when it is time."""
        if kept.journals and kept.unbroken:
            kept.recorded(payload_bytes)
        else:
            kept.unrecorded()
        soon = kind is not ChangeKind.STEP and not kept.journals
        if soon or self._is_due(kept):
            self.save_soon(kept)

    async def save(self, kept: Kept[Session], *, asked: Request | None = None) -> SnapshotFile:
        """Saves a session.

        Args:
            kept: of the session.
            asked: the request for it; None where the server saves of its own accord.

        Raises:
            DomainError: STORAGE_FULL, STORAGE_UNAVAILABLE, or SESSION_NOT_FOUND where it was
                deleted meanwhile.
        """
        async with kept.saving:
            with self.disk_state.refusing():
                # To write takes the session's lock, to wait for the disk does not.
                async with kept.session.lock:
                    kept.session.check_open()
                    number, step = kept.number, kept.session.step
                    file = await self.in_thread(lambda: self._begun(kept, number, kept=asked is not None))
                made = SnapshotFile(file.path, number, step, asked is not None)
                await self.in_thread(lambda: self._finish(kept, file, made, asked))
            self._saved(kept, number, step)
            await self.in_thread(lambda: self._tidy(kept))
            return made

    def save_soon(self, kept: Kept[Session]) -> None:
        """Saves a session in the background; a failure is logged, and tried again later."""
        if kept.waits:
            return
        kept.waits = True
        self._in_background(self._save_quietly(kept))

    async def replace(self, kept: Kept[Session], state: Session) -> None:
        """Saves another state as what follows the session's last change. The session must be locked.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; nothing was saved.
        """
        number = kept.number + 1
        with self.disk_state.refusing():
            await self.in_thread(lambda: self._begun(kept, number, kept=False, state=state).finish())
        kept.number = number
        self._saved(kept, number, state.step)

    async def drop(self, kept: Kept[Session], files: Sequence[SnapshotFile], asked: Request) -> None:
        """Deletes snapshots; the last one is left to the server, which deletes it with the next.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        answer = self.encode(ChangeKind.DROP, kept.session, None)
        note = Answered(asked, ChangeKind.DROP, answer).note(kept.folder, files)
        with self.disk_state.refusing():
            await self.in_thread(lambda: self.catalog.release(kept.folder, note))

    def forget(self, kept: Kept[Session], request: Request) -> None:
        """Deletes a session's files, asked to by ``request``; blocks until that is safe.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE; they are still there.
        """
        with self.disk_state.refusing():
            self.catalog.delete(kept.folder, Answered(request, ChangeKind.DELETE, b"").note(kept.folder))
        self._heads.forget(kept.folder.owner)
        self._kept.pop(kept.folder.owner, None)
        kept.session.kept = None

    def discard(self, name: str, request: Request) -> None:
        """Deletes what lies in quarantine of the session in that folder; blocks until that is safe.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        folder = SessionFolder(self.catalog.sessions / name, name, 0)
        with self.disk_state.refusing():
            self.catalog.discard(Answered(request, ChangeKind.DELETE, b"").note(folder))

    def sweep(self) -> None:
        """Saves what is due; called now and then."""
        now = time.monotonic()
        if self.disk_state.is_due():
            self._in_background(self.in_thread(self.disk_state.try_again))
        if self.catalog.notes.outdated:
            self._in_background(self.in_thread(self.catalog.notes.settle))
        for kept in tuple(self._kept.values()):
            if kept.due(now):
                self.save_soon(kept)
        if self.journal.byte_count > self._policy.journal_bytes:
            for owner in self.journal.pinned(self._covered()):
                self.save_soon(self._kept[owner])

    async def close(self, seconds: float) -> None:
        """Saves every session that has changed, for up to about ``seconds``, and closes the files."""
        deadline = time.monotonic() + seconds
        # Those that have no journal first: for the others it is only a quicker start.
        for kept in sorted(self._kept.values(), key=lambda kept: kept.journals and kept.unbroken):
            if kept.changed and not kept.session.damaged and time.monotonic() < deadline:
                await self._save_quietly(kept)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, deadline - time.monotonic()))
        self._threads.shutdown()
        self.journal.close()
        self._heads.close()
        self.catalog.close()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs ``work`` beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append(self, kept: Kept[Session], pieces: Sequence[Piece]) -> None:
        """Appends the record of the session's next change, and waits until it is durable."""
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()

        def on_durable(error: OSError | None) -> None:
            self._outcomes.append((durable, error))
            if len(self._outcomes) == 1:  # of those before it, the loop knows already
                loop.call_soon_threadsafe(self._settle)

        self.journal.append(Record(kept.folder.owner, kept.number + 1, pieces, on_durable))
        await durable

    def _settle(self) -> None:
        """Passes on the outcome of each record of a group, or of several."""
        while self._outcomes:
            durable, error = self._outcomes.popleft()
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

    def _begun(self, of: Kept[Session], number: int, *, kept: bool, state: Session | None = None) -> Beside:
        """Writes a snapshot that is still to be finished."""
        session = of.session if state is None else state
        requests = [answered.state() for answered in of.answered]
        frozen = freeze(session, self.codec, number=number, requests=requests)
        file = Beside(self.catalog.disk, of.folder.place(number, session.step, kept=kept))
        try:
            snapshot.write(file.write, frozen.tensors, frozen.metadata)
        except BaseException:
            with contextlib.suppress(OSError):
                file.abandon()
            raise
        return file

    def _finish(self, kept: Kept[Session], file: Beside, made: SnapshotFile, asked: Request | None) -> None:
        if asked is None:
            file.finish()
            return
        # Length and time of the file are what they will be in its place.
        answer = self.encode(ChangeKind.SAVE, kept.session, replace(made, path=file.temporary))
        self.catalog.keep(file, Answered(asked, ChangeKind.SAVE, answer).note(kept.folder, [made]))

    def _saved(self, kept: Kept[Session], number: int, step: int) -> None:
        self._heads.note(kept.folder.owner, number)
        self.saves += 1
        kept.saved(number, step)

    def _tidy(self, kept: Kept[Session]) -> None:
        """Deletes what is no longer needed; where that fails, the next time may go well."""
        try:
            self.catalog.prune(kept.folder, self._policy.generations)
            self.journal.release(self._covered(), self._policy.journal_bytes // 2)
        except OSError as error:
            _log.warning("old files are still there: %s", error)

    def _covered(self) -> dict[int, int]:
        return {owner: kept.saved_number for owner, kept in tuple(self._kept.items())}

    def _is_due(self, kept: Kept[Session]) -> bool:
        if not kept.journals:
            return kept.due(time.monotonic())
        policy = self._policy
        room = max(policy.session_bytes, policy.session_share * kept.session.resident_bytes)
        return kept.records >= policy.session_records or kept.record_bytes > room

    async def _save_quietly(self, kept: Kept[Session]) -> None:
        try:
            await self.save(kept)
        except DomainError as error:
            if not kept.session.closed:
                name = f"sessions/{kept.session.id}"
                self.failed_saves += 1
                _log.warning("%s was not saved: %s", name, error.message)
        finally:
            kept.waits = False
            kept.saved_at = time.monotonic()  # the next attempt is due as after a success
