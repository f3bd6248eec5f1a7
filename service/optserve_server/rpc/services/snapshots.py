"""Requests for snapshots: create, list, delete, restore, fork, export and import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from optserve._codec.framing import Framed
from optserve.v1 import session_service_pb2 as pb
from optserve_server.coordination.membership import Membership
from optserve_server.durability.change_records import PushChange, RestoreChange
from optserve_server.durability.durability_manager import DurabilityManager
from optserve_server.durability.snapshot_codec import (
    EncodedSnapshot,
    decode_layout,
    decode_snapshot,
    decode_spec,
    encode_snapshot,
)
from optserve_server.durability.snapshot_schema import check_snapshot_facts
from optserve_server.errors import DomainError, Reason, within
from optserve_server.rpc.context import calls
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.execution.idempotency import commit_change
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.sessions.store import Store
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.session_change import ChangeKind, Request
from optserve_server.state.staging import Staging
from optserve_server.state.step_deduplication import StepDeduplication
from optserve_server.storage import snapshot
from optserve_server.storage.catalog import SnapshotFile
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.snapshot import Contents
from optserve_server.wire.fields.chunks import Filler, split_chunks
from optserve_server.wire.fields.names import (
    check_identifier,
    check_session_id,
    check_tensor_name,
    snapshot_from,
    snapshot_name,
)
from optserve_server.wire.messages.answers import answer_to
from optserve_server.wire.messages.snapshots import serialize_snapshot, snapshot_to

T = TypeVar("T")

Requests = AsyncIterator[Framed[pb.ImportSnapshotRequest]]


class Snapshots:
    """Requests for snapshots.

    Args:
        execution: where work runs.
        durability_manager: keeps sessions; None if all are held in memory alone.
        codec: reads and writes specifications.
    """

    def __init__(
        self, execution: Execution, durability_manager: DurabilityManager | None, codec: SpecCodec
    ) -> None:
        self._execution = execution
        self._durability_manager = durability_manager
        self._codec = codec

    async def create(self, session: Session, asked: Request) -> Message:
        """Saves a session until a client deletes the snapshot."""
        durability_manager, durability = self._require_durability(session)
        session.check_ready()
        file = await ShieldedCoroutine(durability_manager.save_session(durability, asked=asked))
        return answer_to(ChangeKind.SAVE, session, file)

    async def list_snapshots(self, session: Session) -> pb.ListSnapshotsResponse:
        """A session's snapshots."""
        if session.durability is None or self._durability_manager is None:
            return pb.ListSnapshotsResponse()
        files = await self._durability_manager.in_thread(
            partial(_index_by_step, session.durability), session.budget
        )
        return pb.ListSnapshotsResponse(snapshots=[snapshot_to(session.id, f) for f in files.values()])

    async def delete(self, session: Session, step: int, asked: Request) -> Message:
        """Deletes a snapshot; the last one is left to the server, which deletes it with the next."""
        durability_manager, durability = self._require_durability(session)
        self._find_file(session, step)
        async with durability.saving:
            await durability_manager.delete_snapshots(durability, _find_snapshots_at(durability, step), asked)
        return answer_to(ChangeKind.DROP, session, None)

    async def restore(
        self, session: Session, step: int, request: pb.RestoreSnapshotRequest, asked: Request
    ) -> Message:
        """Takes a session back."""
        durability_manager, _ = self._require_durability(session)
        file = self._find_file(session, step)
        expected = request.expected_step if request.HasField("expected_step") else None
        contents = await durability_manager.in_thread(partial(self._read_snapshot, file), session.budget)
        change: RestoreChange | PushChange
        if request.weights_only:
            staging = await self._execution.in_thread(partial(_stage_parameters, session, contents))
            change = PushChange(staging, expected, request=asked, kind=ChangeKind.RESTORE_WEIGHTS)
        else:
            change = RestoreChange(contents, self._codec, expected, asked)
        return await commit_change(self._execution, session, change)

    async def fork(
        self,
        store: Store,
        source: Session,
        request: pb.ForkSessionRequest,
        new_id: str,
        keep: Callable[[Session], object],
        check: Callable[[], None],
    ) -> Message:
        """Makes a session that begins as another one is or was."""
        store.choose_id(new_id)  # another call may have been quicker
        _, step = snapshot_from(request.name)
        if step is None:
            source.check_ready()
            made = await self._execution.run_exclusively(
                source, partial(self._copy_session, store, source, new_id)
            )
        else:
            file = self._find_file(source, step)
            made = await self._execution.create(partial(self._load_session, store, file, new_id), check)
        return await self._add_session(store, made, ChangeKind.FORK, keep)

    async def export(
        self, session: Session, step: int | None, chunk_bytes: int
    ) -> AsyncIterator[Framed[pb.ExportSnapshotResponse]]:
        """A session's bytes, as it is or was."""
        if step is None:
            session.check_ready()
            work = partial(self._encode_export, session)
            data = await self._execution.run_exclusively(session, work, calls.current.get())
            of_step = session.step
        else:
            assert self._durability_manager is not None  # without one there is no file
            file = self._find_file(session, step)
            await self._durability_manager.in_thread(partial(self._read_snapshot, file), session.budget)
            read = partial(self._durability_manager.catalog.disk.read, file.path)
            data = np.frombuffer(await self._durability_manager.in_thread(read, session.budget), np.uint8)
            of_step = file.step
        header = pb.SnapshotHeader(step=of_step, byte_count=data.size)
        chunks = split_chunks(data, chunk_bytes)
        yield Framed(pb.ExportSnapshotResponse(header=header), next(chunks, None))
        for chunk in chunks:
            yield Framed(pb.ExportSnapshotResponse(), chunk)

    async def import_snapshot(
        self,
        store: Store,
        new_id: str,
        data: npt.NDArray[np.uint8],
        keep: Callable[[Session], object],
        check: Callable[[], None],
    ) -> Message:
        """Creates a session from uploaded bytes."""
        store.choose_id(new_id)  # another call may have been quicker
        made = await self._execution.create(partial(self._decode_import, store, data, new_id), check)
        return await self._add_session(store, made, ChangeKind.IMPORT, keep)

    async def _add_session(
        self, store: Store, made: Session, kind: ChangeKind, keep: Callable[[Session], object]
    ) -> Message:
        add = partial(store.add, made, keep)
        await (self._execution.create(add) if self._durability_manager is not None else _run_inline(add))
        return await self._execution.run_or_offload(
            len(made.layout.entries), partial(answer_to, kind, made, None)
        )

    def _load_session(self, store: Store, file: SnapshotFile, new_id: str) -> Session:
        return self._decode_session(store, self._read_snapshot(file), new_id)

    def _copy_session(self, store: Store, source: Session, new_id: str) -> Session:
        frozen = encode_snapshot(source, self._codec)
        return self._decode_session(store, _materialize_contents(frozen), new_id)

    def _decode_import(self, store: Store, data: npt.NDArray[np.uint8], new_id: str) -> Session:
        try:
            contents = snapshot.read_snapshot(data.data, needs_checksums=False)
            check_snapshot_facts(contents)
            made = self._decode_session(store, contents, new_id, checked=False)
            for entry in made.layout.entries:
                check_tensor_name(entry.name)
        except DamagedError as error:
            raise DomainError(Reason.SNAPSHOT_MALFORMED, f"the bytes are no snapshot: {error}") from error
        made.spec = replace(
            made.spec, durability=store.resolve_durability(replace(made.spec, durability=None))
        )
        return made

    def _decode_session(
        self, store: Store, contents: Contents, new_id: str, *, checked: bool = True
    ) -> Session:
        try:
            spec = decode_spec(contents, self._codec)
            store.check_size(decode_layout(contents, spec), spec)
            made = decode_snapshot(contents, self._codec, new_id, store.backend, store.budget)
        except DamagedError as error:
            if not checked:
                raise
            raise DomainError(Reason.SNAPSHOT_DAMAGED, f"the snapshot is damaged: {error}") from error
        made.step_deduplication, made.created = StepDeduplication(), datetime.now(UTC)
        made.coordinator.membership = Membership()
        made.coordinator.return_all_shards()
        return made

    def _encode_export(self, session: Session) -> npt.NDArray[np.uint8]:
        own = {"workers": [], "coordination": session.coordinator.to_json_without_members()}
        frozen = encode_snapshot(session, self._codec, requests=[], **own)
        return serialize_snapshot(frozen, session.budget)

    def _read_snapshot(self, file: SnapshotFile) -> Contents:
        assert self._durability_manager is not None  # without one there is no file
        try:
            return self._durability_manager.catalog.read_snapshot(file)
        except DamagedError as error:
            raise DomainError(Reason.SNAPSHOT_DAMAGED, f"the snapshot is damaged: {error}") from error

    def _require_durability(self, session: Session) -> tuple[DurabilityManager, SessionDurability[Session]]:
        session.check_open()
        if self._durability_manager is None or session.durability is None:
            raise DomainError(Reason.DURABILITY_UNAVAILABLE, "the session is held in memory alone")
        return self._durability_manager, session.durability

    def _find_file(self, session: Session, step: int) -> SnapshotFile:
        files = {} if session.durability is None else _index_by_step(session.durability)
        if step not in files:
            name = snapshot_name(session.id, step)
            raise DomainError(
                Reason.SNAPSHOT_NOT_FOUND, f"there is no {name}", field="name", metadata={"name": name}
            )
        return files[step]


async def receive_snapshot(requests: Requests, store: Store) -> tuple[pb.ImportHeader, npt.NDArray[np.uint8]]:
    """Reads a whole import.

    Raises:
        DomainError: STREAM_PROTOCOL or STREAM_TRUNCATED if messages are missing or come
            where they may not, LIMIT_EXCEEDED or QUOTA_EXCEEDED.
    """
    first = await anext(requests, None)
    if first is None or not first.message.HasField("header"):
        raise DomainError(Reason.STREAM_PROTOCOL, "an import begins with a header", field="header")
    header = first.message.header
    with within("header"):
        check_identifier(header.request_id, "request_id")
        check_session_id(header.session_id)
    buffer = store.budget.allocate_array(header.byte_count)
    filler = Filler(buffer)
    filler.add_chunk(first.chunk)
    while (framed := await anext(requests, None)) is not None:
        if framed.message.HasField("header"):
            raise filler.interruption_error("header")
        filler.add_chunk(framed.chunk)
    if not filler.is_complete:
        raise filler.truncation_error()
    return header, buffer


async def _run_inline(work: Callable[[], T]) -> T:
    return work()


def _stage_parameters(session: Session, contents: Contents) -> Staging:
    """A snapshot's parameters, staged."""
    staging = session.allocate_staging(None, None)
    for tensor in staging.tensors:
        staging.array(tensor)[:] = contents.tensors[f"parameter/{tensor.entry.name}"].reshape(-1)
    return staging


def _materialize_contents(frozen: EncodedSnapshot) -> Contents:
    tensors: dict[str, npt.NDArray[Any]] = {t.name: t.get() for t in frozen.tensors}
    return Contents(frozen.metadata, tensors)


def _find_snapshots_at(durability: SessionDurability[Session], step: int) -> list[SnapshotFile]:
    return [file for file in durability.folder.snapshots() if file.step == step]


def _index_by_step(durability: SessionDurability[Session]) -> dict[int, SnapshotFile]:
    """One snapshot of each step: the last that a client requested, or else the latest."""
    files: dict[int, SnapshotFile] = {}
    for file in durability.folder.snapshots():
        known = files.get(file.step)
        if known is None or (file.kept, file.number) > (known.kept, known.number):
            files[file.step] = file
    return files
