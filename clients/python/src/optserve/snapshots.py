"""Snapshots of a session: on the server's disk, and as files of the client."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from optserve import coercion, errors
from optserve._codec.chunks import CHUNK_BYTES, Joined
from optserve._codec.framing import ChunkView, Framed, Framing
from optserve._transport.connection import Connection
from optserve._transport.retry import transfer_timeout
from optserve.file_access import FileLike, open_to_read, open_to_write
from optserve.progress import make_progress_bar
from optserve.session_info import SessionInfo
from optserve.v1 import session_service_pb2 as wire

IMPORTS = Framing(wire.ImportSnapshotRequest)


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
        learn: called with the changed session.
    """

    def __init__(self, connection: Connection, name: str, learn: Callable[[SessionInfo], object]) -> None:
        self._connection = connection
        self._name = name
        self._learn = learn

    def create(self, *, timeout: float | None = None) -> Snapshot:
        """Saves the session on the server's disk, until the snapshot or the session is deleted.

        Raises:
            FailedPrecondition: the session is held in memory only.
            ResourceExhausted, Unavailable: the server's disk is full, or has failed.
        """
        request = wire.CreateSnapshotRequest(name=self._name, request_id=uuid.uuid4().hex)
        response = self._connection.call(self._connection.sessions.CreateSnapshot, request, timeout)
        return Snapshot.from_message(response.snapshot)

    def list(self, *, timeout: float | None = None) -> list[Snapshot]:
        """Lists all snapshots, the latest first."""
        request = wire.ListSnapshotsRequest(name=self._name)
        response = self._connection.call(self._connection.sessions.ListSnapshots, request, timeout)
        return [Snapshot.from_message(snapshot) for snapshot in response.snapshots]

    def delete(self, step: int | str | Snapshot, *, timeout: float | None = None) -> None:
        """Deletes a snapshot.

        Args:
            step: of the snapshot, or the snapshot itself, or its resource name.
            timeout: seconds in all; the client's default when None.

        Raises:
            NotFound: there is none of that step.
        """
        request = wire.DeleteSnapshotRequest(name=self._snapshot_name(step), request_id=uuid.uuid4().hex)
        self._connection.call(self._connection.sessions.DeleteSnapshot, request, timeout)

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
        request = wire.RestoreSnapshotRequest(
            name=self._snapshot_name(step), request_id=uuid.uuid4().hex, weights_only=weights_only
        )
        if expected_step is not None:
            request.expected_step = coercion.to_step(expected_step, "expected_step")
        response = self._connection.call(self._connection.sessions.RestoreSnapshot, request, timeout)
        info = SessionInfo.from_message(response.session)
        self._learn(info)
        return info

    def export(
        self,
        place: FileLike,
        step: int | str | Snapshot | None = None,
        *,
        timeout: float | None = None,
        progress: bool | None = None,
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
        request = wire.ExportSnapshotRequest(name=self._name if step is None else self._snapshot_name(step))
        shows = self._connection.progress if progress is None else progress
        # A day, because only the server knows the length.
        seconds = coercion.to_timeout(86400.0, timeout)

        def attempt(left: float) -> tuple[int, memoryview]:
            call = self._connection.streams.export(
                request, timeout=min(left, seconds), metadata=self._connection.metadata
            )
            try:
                return _receive_export(call, shows)
            finally:
                call.cancel()

        found, data = self._connection.run(attempt, seconds)
        with open_to_write(place) as file:
            file.write(data)
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
        request = wire.ForkSessionRequest(
            name=self._name if step is None else self._snapshot_name(step),
            session_id=coercion.to_string(session_id, "session_id"),
            request_id=uuid.uuid4().hex,
        )
        response = self._connection.call(self._connection.sessions.ForkSession, request, timeout)
        return SessionInfo.from_message(response.session)

    def _snapshot_name(self, step: int | str | Snapshot) -> str:
        return coercion.to_snapshot_name(step, self._name)


def import_session(
    connection: Connection, place: FileLike, session_id: str, timeout: float | None, progress: bool | None
) -> SessionInfo:
    """Sends a file that `Snapshots.export` wrote; restarts if the connection is lost."""
    shows = connection.progress if progress is None else progress
    with open_to_read(place) as (file, byte_count):
        begins = file.tell()
        header = wire.ImportHeader(request_id=uuid.uuid4().hex, session_id=session_id, byte_count=byte_count)

        def attempt(left: float) -> wire.ImportSnapshotResponse:
            file.seek(begins)
            with make_progress_bar("import", byte_count, shows) as shown:
                response: wire.ImportSnapshotResponse = connection.streams.import_(
                    _import_messages(header, file, shown), timeout=left, metadata=connection.metadata
                )
            return response

        seconds = transfer_timeout(connection.timeout, byte_count) if timeout is None else timeout
        return SessionInfo.from_message(connection.run(attempt, seconds).session)


def _import_messages(header: wire.ImportHeader, file: IO[bytes], shown: Any) -> Iterator[bytes]:
    yield IMPORTS.encode(Framed(wire.ImportSnapshotRequest(header=header)))
    offset = 0
    while data := file.read(CHUNK_BYTES):
        yield IMPORTS.encode(Framed(wire.ImportSnapshotRequest(), ChunkView(offset, memoryview(data))))
        offset += len(data)
        shown.update(len(data))


def _receive_export(call: Any, shows: bool | None) -> tuple[int, memoryview]:
    first = next(call, None)
    if first is None:
        raise errors.Unavailable("the stream ended before its answer")
    header = first.message.header
    joined = Joined(header.byte_count)
    with make_progress_bar("export", header.byte_count, shows) as shown:
        message = first
        while True:
            if message.chunk is not None:
                shown.update(joined.add_chunk(message.chunk))
            if joined.is_complete:
                return header.step, joined.buffer.data
            message = next(call, None)
            if message is None:
                raise errors.Unavailable("the stream ended before its bytes were whole")
