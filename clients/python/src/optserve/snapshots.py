"""Snapshots of a session: on the server's disk, and as files of the client."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Self

from optserve import coercion
from optserve._codec.chunks import CHUNK_BYTES, Joined
from optserve._codec.framing import ChunkView, Framed, Framing
from optserve._transport.base_connection import BaseConnection
from optserve._transport.call import Call, Download, Upload
from optserve._transport.connection import Connection
from optserve.file_access import FileLike, open_to_read, open_to_write
from optserve.progress import Bar, ProgressOption, Silent, make_progress_bar
from optserve.session_info import SessionInfo
from optserve.v1 import session_service_pb2 as wire

IMPORTS = Framing(wire.ImportSnapshotRequest)

EXPORT_TIMEOUT_S = 86400.0
"""A day, because only the server knows the length of an export."""


@dataclass(frozen=True)
class Snapshot:
    """A session on its server's disk.

    Attributes:
        name: resource name, ``sessions/{id}/snapshots/{step}``.
        step: the session's step.
        created: time of creation, in UTC.
        byte_count: length of its file in bytes.
        kept: whether a client created it; the server deletes the others automatically.
    """

    name: str
    step: int
    created: datetime
    byte_count: int
    kept: bool

    @classmethod
    def from_message(cls, message: wire.Snapshot) -> Snapshot:
        """Decodes the description of a server."""
        created = message.create_time.ToDatetime(tzinfo=UTC)
        return cls(message.name, message.step, created, message.byte_count, message.kept)


class Snapshots:
    """A session's snapshots, as `SessionHandle.snapshots`.

    Args:
        connection: to the server.
        name: the session's resource name.
        accept_restored: called with the restored session, which it returns.
    """

    def __init__(
        self, connection: Connection, name: str, accept_restored: Callable[[SessionInfo], SessionInfo]
    ) -> None:
        self._connection = connection
        self._name = name
        self._accept_restored = accept_restored

    def create(self, *, timeout: float | None = None) -> Snapshot:
        """Saves the session on the server's disk, until the snapshot or the session is deleted.

        Raises:
            FailedPrecondition: the session is held in memory only.
            ResourceExhausted, Unavailable: the server's disk is full, or has failed.
        """
        return self._connection.call(make_snapshot(self._name), timeout)

    def list(self, *, timeout: float | None = None) -> list[Snapshot]:
        """Lists all snapshots, the latest first."""
        return self._connection.call(make_list(self._name), timeout)

    def delete(self, step: int | str | Snapshot, *, timeout: float | None = None) -> None:
        """Deletes a snapshot.

        Args:
            step: of the snapshot, or the snapshot itself, or its resource name.
            timeout: seconds in all; the client's default when None.

        Raises:
            NotFound: there is none of that step.
        """
        return self._connection.call(make_delete(self._name, step), timeout)

    def restore(
        self,
        step: int | str | Snapshot,
        *,
        weights_only: bool = False,
        expected_step: int | None = None,
        timeout: float | None = None,
    ) -> SessionInfo:
        """Restores the session from a snapshot.

        Args:
            step: of the snapshot, or the snapshot itself, or its resource name.
            weights_only: whether only the parameters are restored.
            expected_step: the step that the session must be at.
            timeout: seconds in all; the client's default when None.

        Raises:
            NotFound: there is none of that step.
            StepMismatch: the session is at another step than expected.
            DataLoss: the snapshot is damaged; nothing was changed.
        """
        restore = make_restore(self._name, step, weights_only, expected_step)
        return self._connection.call(restore.then(self._accept_restored), timeout)

    def export(
        self,
        place: FileLike,
        step: int | str | Snapshot | None = None,
        *,
        timeout: float | None = None,
        progress: ProgressOption = None,
    ) -> int:
        """Writes the session as a safetensors file, which frameworks and `import_session` can read.

        Args:
            place: a path, a file opened for bytes, or a URL that fsspec knows (extra ``fsspec``).
            step: of a snapshot, or the snapshot itself, or its name; None for the session as it is.
            timeout: seconds in all; the client's default, lengthened by the transfer, when None.
            progress: whether a bar is shown; the client's default when None.

        Returns:
            The session's step in the file.

        Raises:
            NotFound: there is no snapshot of that step.
            DataLoss: it is damaged.
            OSError: the place cannot be written.
        """
        export = make_export(self._connection, self._name, step, timeout, progress)
        found, data = self._connection.download(export)
        write_file(place, data)
        return found

    def fork(
        self, step: int | str | Snapshot | None = None, *, session_id: str = "", timeout: float | None = None
    ) -> SessionInfo:
        """Creates a copy of this session or of a snapshot; `Client.session` returns its handle.

        Args:
            step: of a snapshot, or the snapshot itself, or its name; None for the session as it is.
            session_id: last part of the new session's name; chosen by the server when empty.
            timeout: seconds in all; the client's default when None.

        Raises:
            NotFound: there is no snapshot of that step.
            AlreadyExists: there is a session of that id.
        """
        return self._connection.call(make_fork(self._name, step, session_id), timeout)


def make_snapshot(session: str) -> Call[Snapshot]:
    """Returns the call of `Snapshots.create`, with a new request id."""
    request = wire.CreateSnapshotRequest(name=session, request_id=uuid.uuid4().hex)

    def decode(answer: wire.CreateSnapshotResponse) -> Snapshot:
        return Snapshot.from_message(answer.snapshot)

    return Call(lambda stubs: stubs.sessions.CreateSnapshot, request, decode)


def make_list(session: str) -> Call[list[Snapshot]]:
    """Returns the call of `Snapshots.list`."""

    def decode(answer: wire.ListSnapshotsResponse) -> list[Snapshot]:
        return [Snapshot.from_message(snapshot) for snapshot in answer.snapshots]

    return Call(lambda stubs: stubs.sessions.ListSnapshots, wire.ListSnapshotsRequest(name=session), decode)


def make_delete(session: str, step: int | str | Snapshot) -> Call[None]:
    """Returns the call of `Snapshots.delete`, with a new request id."""
    name = coercion.to_snapshot_name(step, session)
    request = wire.DeleteSnapshotRequest(name=name, request_id=uuid.uuid4().hex)
    return Call(lambda stubs: stubs.sessions.DeleteSnapshot, request, lambda answer: None)


def make_restore(
    session: str, step: int | str | Snapshot, weights_only: bool, expected_step: int | None
) -> Call[SessionInfo]:
    """Returns the call of `Snapshots.restore`, with a new request id."""
    name = coercion.to_snapshot_name(step, session)
    request = wire.RestoreSnapshotRequest(name=name, request_id=uuid.uuid4().hex, weights_only=weights_only)
    if expected_step is not None:
        request.expected_step = coercion.to_step(expected_step, "expected_step")
    return Call(lambda stubs: stubs.sessions.RestoreSnapshot, request, _decode_session)


def make_fork(session: str, step: int | str | Snapshot | None, session_id: str) -> Call[SessionInfo]:
    """Returns the call of `Snapshots.fork`, with a new request id."""
    request = wire.ForkSessionRequest(
        name=session if step is None else coercion.to_snapshot_name(step, session),
        session_id=coercion.to_string(session_id, "session_id"),
        request_id=uuid.uuid4().hex,
    )
    return Call(lambda stubs: stubs.sessions.ForkSession, request, _decode_session)


def make_export(
    settings: BaseConnection,
    session: str,
    step: int | str | Snapshot | None,
    timeout: float | None,
    progress: ProgressOption,
) -> Download[tuple[int, memoryview]]:
    """Returns the call of `Snapshots.export`, whose result is the step and the file's bytes."""
    name = session if step is None else coercion.to_snapshot_name(step, session)
    shows = settings.progress if progress is None else progress
    return Download(
        lambda stubs: stubs.streams.export,
        wire.ExportSnapshotRequest(name=name),
        lambda: ExportReception(shows),
        lambda found: found,
        coercion.to_timeout(EXPORT_TIMEOUT_S, timeout),
    )


class ExportReception:
    """One answer to ExportSnapshot, message by message. See `Reception`.

    Args:
        progress: whether a bar is shown; None lets the transfer decide.
    """

    def __init__(self, progress: ProgressOption) -> None:
        self._progress = progress
        self._joined: Joined | None = None
        self._step = 0
        self._bar: Bar = Silent()
        self._exits = contextlib.ExitStack()

    def accept(self, message: Framed[wire.ExportSnapshotResponse]) -> tuple[int, memoryview] | None:
        """Takes the next message; returns step and bytes when they are complete."""
        if self._joined is None:
            header = message.message.header
            self._step, self._joined = header.step, Joined(header.byte_count)
            bar = make_progress_bar("export", header.byte_count, self._progress)
            self._bar = self._exits.enter_context(bar)
        if message.chunk is not None:
            self._bar.update(self._joined.add_chunk(message.chunk))
        return (self._step, self._joined.buffer.data) if self._joined.is_complete else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()


def write_file(place: FileLike, data: memoryview) -> None:
    """Writes an export to its place.

    Raises:
        OSError: the place cannot be written.
    """
    with open_to_write(place) as file:
        file.write(data)


def import_session(
    connection: Connection, place: FileLike, session_id: str, timeout: float | None, progress: ProgressOption
) -> SessionInfo:
    """Sends a file that `Snapshots.export` wrote; restarts if the connection is lost."""
    with open_to_read(place) as (file, byte_count):
        return connection.upload(make_import(connection, file, byte_count, session_id, progress), timeout)


def make_import(
    settings: BaseConnection, file: IO[bytes], byte_count: int, session_id: str, progress: ProgressOption
) -> Upload[SessionInfo]:
    """Returns the call that sends a file, with a new request id.

    Args:
        settings: of the connection.
        file: is read from where it stands, again at each attempt.
        byte_count: how many bytes it has from there.
        session_id: last part of the session's name; chosen by the server when empty.
        progress: whether a bar is shown; the client's default when None.
    """
    wanted = coercion.to_string(session_id, "session_id")
    header = wire.ImportHeader(request_id=uuid.uuid4().hex, session_id=wanted, byte_count=byte_count)
    shows, begins = settings.progress if progress is None else progress, file.tell()

    def messages() -> Generator[bytes, None, None]:
        file.seek(begins)
        with make_progress_bar("import", byte_count, shows) as shown:
            yield IMPORTS.encode(Framed(wire.ImportSnapshotRequest(header=header)))
            offset = 0
            while data := file.read(CHUNK_BYTES):
                chunk = ChunkView(offset, memoryview(data))
                yield IMPORTS.encode(Framed(wire.ImportSnapshotRequest(), chunk))
                offset += len(data)
                shown.update(len(data))

    return Upload(lambda stubs: stubs.streams.import_, messages, _decode_session, byte_count, True)


def _decode_session(
    answer: wire.RestoreSnapshotResponse | wire.ForkSessionResponse | wire.ImportSnapshotResponse,
) -> SessionInfo:
    return SessionInfo.from_message(answer.session)
