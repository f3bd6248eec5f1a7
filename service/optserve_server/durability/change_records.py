"""Records of changes in the journal, and their replay by the code that made the changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from optserve_server.coordination.aggregate_step import CloseRound, replay_aggregate
from optserve_server.coordination.contribution import drop_contribution, replay_contribution
from optserve_server.coordination.membership_change import Join, replay_membership_end
from optserve_server.durability.snapshot_codec import decode_snapshot
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.session_activity import Updated
from optserve_server.state.session_change import Change, ChangeKind, Request
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, Staging
from optserve_server.stepping.step_record import decode_options, describe_gradient
from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import pack_payload, unpack_payload
from optserve_server.storage.snapshot import Contents

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class PushChange(Change[Session, Prepared[None]]):
    """Parameters that are overwritten, by a push or from a snapshot; see `Session.prepare_assign`."""

    staging: Staging
    expected_step: int | None = None
    reset_state: bool = False
    request: Request = Request()
    kind: ChangeKind = ChangeKind.PUSH

    def prepare(self, session: Session) -> Prepared[None]:
        """Checks it."""
        return session.prepare_assign(
            self.staging, expected_step=self.expected_step, reset_state=self.reset_state
        )

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        facts, buffers = describe_gradient(self.staging)
        own = {"reset_state": self.reset_state, **facts}
        return pack_payload({"kind": self.kind, **own, **_request_fields(self.request)}, buffers)


@dataclass(frozen=True)
class RestoreChange(Change[Session, Prepared[None]]):
    """A session that is again what a snapshot holds; what workers had answered stays.

    Attributes:
        contents: the snapshot, whose whole file the record holds.
        codec: reads its specification.
    """

    contents: Contents
    codec: SpecCodec
    expected_step: int | None = None
    request: Request = Request()
    kind = ChangeKind.RESTORE

    def prepare(self, session: Session) -> Prepared[None]:
        """Checks it."""
        session.check_open()
        session.check_step(self.expected_step, "expected_step")
        try:
            backend = session.arenas.backend
            saved = decode_snapshot(self.contents, self.codec, session.id, backend, session.budget)
        except DamagedError as error:
            raise DomainError(Reason.SNAPSHOT_DAMAGED, f"the snapshot is damaged: {error}") from error
        return Prepared(partial(_copy_state, session, saved), partial(saved.charge.lower_to, 0))

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload({"kind": self.kind, **_request_fields(self.request)}, [self.contents.data])


def _copy_state(session: Session, saved: Session) -> None:
    """Gives a session the state of another one with the same tensors, which is no longer used.

    The parameters keep their places, because others may read them there.
    """
    arenas = session.arenas
    with session.changing:
        for dtype, parameters in arenas.parameters.items():
            parameters[:] = saved.arenas.parameters[dtype]
        for partition in saved.arenas.partitions.values():
            partition.move_to(arenas.parameters[partition.dtype])
        arenas.partitions = saved.arenas.partitions
    spec = replace(saved.spec, durability=session.spec.durability)
    session.restore(spec, saved.scalars, saved.monitors, (saved.step, saved.accumulated, saved.skipped))
    session.resident_bytes = saved.resident_bytes
    session.charge, session.waiting, session.history = saved.charge, saved.waiting, saved.history
    session.apply_coordination_spec()
    saved.coordinator.return_all_shards()
    session.coordinator.round = saved.coordinator.round
    session.coordinator.progress = saved.coordinator.progress
    session.activity.publish(Updated())


@dataclass(frozen=True)
class UpdateChange(Change[Session, Prepared[Any]]):
    """Another specification, within the limits of the session's store."""

    store: Store
    spec: SessionSpec
    expected_step: int | None = None
    request: Request = Request()
    kind = ChangeKind.UPDATE

    def prepare(self, session: Session) -> Prepared[Any]:
        """Checks it."""
        return self.store.prepare_spec_update(session, self.spec, self.expected_step)

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload(
            {"kind": self.kind, "spec": codec.encode(self.spec), **_request_fields(self.request)}
        )


@dataclass(frozen=True)
class ReportChange(Change[Session, Prepared[Any]]):
    """Metrics."""

    values: Mapping[str, float]
    expected_step: int | None = None
    request: Request = Request()
    kind = ChangeKind.REPORT

    def prepare(self, session: Session) -> Prepared[Any]:
        """Checks it."""
        return session.prepare_report(self.values, expected_step=self.expected_step)

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack_payload({"kind": self.kind, "values": dict(self.values), **_request_fields(self.request)})


RequestedChange = PushChange | RestoreChange | UpdateChange | ReportChange
"""A change that a request with an idempotency key may ask for."""


def replay_record(
    session: Session, payload: memoryview, codec: SpecCodec
) -> tuple[ChangeKind, object, Request]:
    """Makes a change again.

    Returns:
        Its kind, its outcome, and the request that asked for it.

    Raises:
        DamagedError: the session refuses it, which it did not when it was recorded.
    """
    facts, buffers = unpack_payload(payload)
    kind = ChangeKind(facts["kind"])
    session.changed_at = facts.get("time", session.changed_at)  # format 3 has none
    try:
        outcome = _apply_record(kind, session, facts, buffers, codec)
    except DomainError as error:
        raise DamagedError(f"a {kind} that was taken is refused: {error.message}") from error
    key, content = facts.get("request", ("", ""))
    return kind, outcome, Request(key, bytes.fromhex(content))


def _apply_record(
    kind: ChangeKind, session: Session, facts: dict[str, Any], buffers: list[memoryview], codec: SpecCodec
) -> object:
    match kind:
        case ChangeKind.RESTORE:
            return RestoreChange(snapshot.read_snapshot(buffers[0]), codec).prepare(session).commit()
        case ChangeKind.UPDATE:
            return session.update_spec(codec.decode(facts["spec"]))
        case ChangeKind.REPORT:
            return session.report_metrics(facts["values"])
        case ChangeKind.JOIN:
            return Join(facts["worker"], facts["lease_seconds"]).prepare(session).commit()
        case ChangeKind.END_MEMBERSHIPS:
            replay_membership_end(session, facts)
            return None
        case ChangeKind.ACQUIRE_SHARDS:
            session.coordinator.require_data_plan().lease_shards(facts["worker"], facts["shards"])
            return None
        case ChangeKind.RELEASE_SHARDS:
            session.coordinator.require_data_plan().return_shards(facts["worker"], facts["shards"])
            return None
        case ChangeKind.DROPPED:
            return drop_contribution(session, facts["worker"], facts)
        case ChangeKind.CLOSE_ROUND:
            return CloseRound(is_recorded=True).prepare(session).commit()
    staging = _decode_staging(session, facts, buffers)
    if kind is ChangeKind.STEP:
        return session.take_step(staging, decode_options(facts["options"]))
    if kind is ChangeKind.CONTRIBUTION:
        return replay_contribution(session, staging, decode_options(facts["options"]), facts)
    if kind is ChangeKind.AGGREGATE:
        return replay_aggregate(session, staging, decode_options(facts["options"]), facts)
    return PushChange(staging, reset_state=facts["reset_state"]).prepare(session).commit()


def _request_fields(request: Request) -> dict[str, Any]:
    return {"request": (request.key, request.content.hex())} if request.key else {}


def _decode_staging(session: Session, facts: dict[str, Any], buffers: Sequence[memoryview]) -> Staging:
    rest = buffers[0] if buffers else memoryview(b"")

    def take(dtype_name: str, shape: Sequence[int]) -> npt.NDArray[Any]:
        nonlocal rest
        dtype = _BFLOAT16 if dtype_name == "bfloat16" else np.dtype(dtype_name)
        size = math.prod(shape) * dtype.itemsize
        data, rest = rest[:size], rest[size:]
        return np.frombuffer(data, dtype).reshape(shape)

    arrays = [NamedArray(name, take(dtype, session.layout[name].shape)) for name, dtype in facts["tensors"]]
    rows = [
        NamedRows(name, take(of_indices, shape[:1]), take(of_values, shape))
        for name, of_indices, of_values, shape in facts["rows"]
    ]
    return session.stage_arrays(arrays, rows)
