"""Records of changes in the journal, and their replay by the code that made the changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.state.change import Change, ChangeKind, Request
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, Staging
from optserve_server.stepping.step_record import describe, options_of
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import Piece
from optserve_server.storage.payload import pack, unpack

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class PushChange(Change[Session, Prepared[None]]):
    """Parameters that are overwritten; fields as those of `Session.prepare_assign`."""

    staging: Staging
    expected_step: int | None = None
    reset_state: bool = False
    request: Request = Request()
    kind = ChangeKind.PUSH

    def prepare(self, session: Session) -> Prepared[None]:
        """Checks it."""
        return session.prepare_assign(
            self.staging, expected_step=self.expected_step, reset_state=self.reset_state
        )

    def record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        facts, buffers = describe(self.staging)
        own = {"reset_state": self.reset_state, **facts}
        return pack({"kind": self.kind, **own, **_request_facts(self.request)}, buffers)


@dataclass(frozen=True)
class RestoreChange(PushChange):
    """Parameters that are replaced by those of a snapshot."""

    kind = ChangeKind.RESTORE


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
        return self.store.prepare_update(session, self.spec, self.expected_step)

    def record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack({"kind": self.kind, "spec": codec.encode(self.spec), **_request_facts(self.request)})


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

    def record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record."""
        return pack({"kind": self.kind, "values": dict(self.values), **_request_facts(self.request)})


RequestedChange = PushChange | UpdateChange | ReportChange
"""A change that a request with an idempotency key may ask for."""


@dataclass(frozen=True)
class Replayed:
    """A replayed change.

    Attributes:
        kind: what it was.
        outcome: its outcome.
        request: the request that asked for it.
    """

    kind: ChangeKind
    outcome: object
    request: Request


def replay(session: Session, payload: memoryview, codec: SpecCodec) -> Replayed:
    """Makes a change again.

    Raises:
        DamagedError: the session refuses it, which it did not when it was recorded.
    """
    facts, buffers = unpack(payload)
    kind = ChangeKind(facts["kind"])
    try:
        outcome = _REPLAYS[kind](session, facts, buffers, codec)
    except DomainError as error:
        raise DamagedError(f"a {kind} that was taken is refused: {error.message}") from error
    key, content = facts.get("request", ("", ""))
    return Replayed(kind, outcome, Request(key, bytes.fromhex(content)))


def _replay_step(session: Session, facts: dict[str, Any], buffers: list[memoryview], _: SpecCodec) -> object:
    return session.apply(_stage(session, facts, buffers), options_of(facts["options"]))


def _replay_push(session: Session, facts: dict[str, Any], buffers: list[memoryview], _: SpecCodec) -> object:
    session.assign(_stage(session, facts, buffers), reset_state=facts["reset_state"])
    return None


def _replay_update(session: Session, facts: dict[str, Any], _: list[memoryview], codec: SpecCodec) -> object:
    return session.update(codec.decode(facts["spec"]))


def _replay_report(session: Session, facts: dict[str, Any], _: list[memoryview], __: SpecCodec) -> object:
    return session.report(facts["values"])


_REPLAYS: Mapping[ChangeKind, Callable[[Session, dict[str, Any], list[memoryview], SpecCodec], object]] = {
    ChangeKind.STEP: _replay_step,
    ChangeKind.PUSH: _replay_push,
    ChangeKind.RESTORE: _replay_push,
    ChangeKind.UPDATE: _replay_update,
    ChangeKind.REPORT: _replay_report,
}


def _request_facts(request: Request) -> dict[str, Any]:
    return {"request": (request.key, request.content.hex())} if request.key else {}


def _stage(session: Session, facts: dict[str, Any], buffers: Sequence[memoryview]) -> Staging:
    rest = _Rest(buffers[0] if buffers else memoryview(b""))
    arrays = [
        NamedArray(name, rest.take(dtype, session.layout[name].shape)) for name, dtype in facts["tensors"]
    ]
    rows = []
    for name, of_indices, of_values, shape in facts["rows"]:
        indices = rest.take(of_indices, shape[:1])
        rows.append(NamedRows(name, indices, rest.take(of_values, shape)))
    return session.stage_arrays(arrays, rows)


class _Rest:
    """Bytes that are cut into arrays from the front."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, dtype_name: str, shape: Sequence[int]) -> npt.NDArray[Any]:
        dtype = _dtype(dtype_name)
        size = math.prod(shape) * dtype.itemsize
        data, self._data = self._data[:size], self._data[size:]
        return np.frombuffer(data, dtype).reshape(shape)


def _dtype(name: str) -> np.dtype[Any]:
    return _BFLOAT16 if name == "bfloat16" else np.dtype(name)
