"""Calls that create, describe, list and delete sessions, and ask for a server's abilities."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from numpy.typing import ArrayLike

from optserve import coercion, spec
from optserve._codec.dtypes import Array
from optserve._engine.step_protocol import Membership
from optserve._transport.call import Call
from optserve.capabilities import Capabilities
from optserve.parameter_init import Initialized, encode_parameter, to_parameter_array
from optserve.session_info import SessionInfo
from optserve.specs.session_spec import SessionSpec
from optserve.v1 import capabilities_service_pb2
from optserve.v1 import session_service_pb2 as wire

INLINE_BYTES = 1 << 20
"""Parameters with more bytes are uploaded after the session is created."""

AnyParameters = Mapping[str, ArrayLike | Initialized] | Iterable[tuple[str, ArrayLike | Initialized]]


@dataclass(frozen=True)
class Creation:
    """What creates a session.

    Attributes:
        call: creates it.
        upload: arrays by name that are to be pushed afterwards; empty if they are in the call.
    """

    call: Call[SessionInfo]
    upload: Mapping[str, Array]


def make_creation(parameters: AnyParameters, wanted: SessionSpec, session_id: str, seed: int) -> Creation:
    """Returns what creates a session, with a new request id; arguments as of `Client.create_session`.

    Raises:
        TypeError: a parameter is neither float32 nor float64, or an argument has the wrong type.
        ValueError: an argument has a value that is not allowed.
    """
    given = coercion.require_string_keys(coercion.to_mapping(parameters, "parameters"), "parameters")
    arrays = {
        name: to_parameter_array(name, v) for name, v in given.items() if not isinstance(v, Initialized)
    }
    upload = sum(array.nbytes for array in arrays.values()) > INLINE_BYTES
    request = wire.CreateSessionRequest(
        request_id=uuid.uuid4().hex,
        session_id=coercion.to_string(session_id, "session_id"),
        spec=spec.encode_spec(wanted),
        parameters=[encode_parameter(name, arrays.get(name, value), upload) for name, value in given.items()],
        seed=coercion.to_int(seed, "seed"),
    )
    create: Call[SessionInfo] = Call(lambda stubs: stubs.sessions.CreateSession, request, _decode_session)
    return Creation(create, arrays if upload else {})


def make_get(name: str) -> Call[SessionInfo]:
    """Returns the call that describes a session."""
    return Call(lambda stubs: stubs.sessions.GetSession, wire.GetSessionRequest(name=name), _decode_session)


def make_get_worker(name: str, worker: str | None) -> Call[tuple[SessionInfo, Membership | None]]:
    """Returns the call that describes a session, and its next step of a worker.

    Args:
        name: resource name of the session.
        worker: name of the worker; None for none.
    """
    worker = coercion.to_optional(coercion.to_string, worker, "worker")
    request = wire.GetSessionRequest(name=name, worker=worker or "")

    def decode(answer: wire.GetSessionResponse) -> tuple[SessionInfo, Membership | None]:
        return _decode_session(answer), Membership(worker, 0, answer.next_sequence) if worker else None

    return Call(lambda stubs: stubs.sessions.GetSession, request, decode)


def make_list(page_size: int, token: str) -> Call[tuple[list[SessionInfo], str]]:
    """Returns the call that lists a page of sessions, and the token of the next one, empty after the last."""
    size = coercion.to_int(page_size, "page_size", bits=32)
    request = wire.ListSessionsRequest(page_size=size, page_token=token)

    def decode(answer: wire.ListSessionsResponse) -> tuple[list[SessionInfo], str]:
        return [SessionInfo.from_message(session) for session in answer.sessions], answer.next_page_token

    return Call(lambda stubs: stubs.sessions.ListSessions, request, decode)


def make_delete(name: str) -> Call[None]:
    """Returns the call that deletes a session, with a new request id."""
    request = wire.DeleteSessionRequest(name=name, request_id=uuid.uuid4().hex)
    return Call(lambda stubs: stubs.sessions.DeleteSession, request, lambda answer: None)


def make_get_capabilities() -> Call[Capabilities]:
    """Returns the call that asks what the server can do."""
    request = capabilities_service_pb2.GetCapabilitiesRequest()
    return Call(lambda stubs: stubs.capabilities.GetCapabilities, request, Capabilities.from_message)


def make_health_check(service: str) -> Call[bool]:
    """Returns the call that asks whether a service accepts calls; the whole server's if the name is empty."""
    request = health_pb2.HealthCheckRequest(service=coercion.to_string(service, "service"))
    serving = health_pb2.HealthCheckResponse.SERVING
    return Call(lambda stubs: stubs.health.Check, request, lambda answer: bool(answer.status == serving))


def _decode_session(answer: wire.CreateSessionResponse | wire.GetSessionResponse) -> SessionInfo:
    return SessionInfo.from_message(answer.session)
