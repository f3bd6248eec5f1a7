"""Resource names and the other identifiers of requests, parsed in one place."""

from __future__ import annotations

import functools
import re

from optserve_server.errors import DomainError, Reason

_COLLECTION = "sessions/"
_SNAPSHOTS = "/snapshots/"
_STEP = re.compile(r"0|[1-9][0-9]{0,18}")
_SESSION_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def session_name(session_id: str) -> str:
    """``sessions/{id}``."""
    return _COLLECTION + session_id


@functools.lru_cache(maxsize=1024)  # every call of a session has the same name
def session_id_from(name: str, field: str = "name") -> str:
    """The id within ``sessions/{id}``.

    Raises:
        DomainError: FIELD_REQUIRED or MALFORMED_NAME at ``field``.
    """
    if not name:
        raise DomainError(Reason.FIELD_REQUIRED, f"{field} is required", field=field)
    session_id = name.removeprefix(_COLLECTION)
    if session_id == name or not _SESSION_ID.fullmatch(session_id):
        raise DomainError(Reason.MALFORMED_NAME, f"{name[:200]!r} is no name of a session", field=field)
    return session_id


def snapshot_name(session_id: str, step: int) -> str:
    """``sessions/{id}/snapshots/{step}``."""
    return f"{session_name(session_id)}{_SNAPSHOTS}{step}"


def snapshot_from(name: str) -> tuple[str, int | None]:
    """The id and the step within ``sessions/{id}/snapshots/{step}``; no step within ``sessions/{id}``.

    Raises:
        DomainError: FIELD_REQUIRED or MALFORMED_NAME at ``name``.
    """
    session, found, step = name.partition(_SNAPSHOTS)
    session_id = session_id_from(session)
    if not found:
        return session_id, None
    if not _STEP.fullmatch(step):
        raise DomainError(Reason.MALFORMED_NAME, f"{name[:200]!r} is no name of a snapshot", field="name")
    return session_id, int(step)


def check_session_id(session_id: str) -> str:
    """An id that a client chose, or nothing.

    Raises:
        DomainError: MALFORMED_NAME at ``session_id``.
    """
    if session_id and not _SESSION_ID.fullmatch(session_id):
        raise DomainError(
            Reason.MALFORMED_NAME,
            "an id has 1 to 63 characters of a-z, 0-9 and '-', and starts with a letter or digit",
            field="session_id",
        )
    return session_id


def check_tensor_name(name: str) -> str:
    """A tensor's name.

    Raises:
        DomainError: FIELD_REQUIRED or MALFORMED_NAME at ``name``.
    """
    if not name:
        raise DomainError(Reason.FIELD_REQUIRED, "name is required", field="name")
    if len(name) > 255 or _CONTROL.search(name):
        raise DomainError(
            Reason.MALFORMED_NAME, "a name has up to 255 characters, none a control character", field="name"
        )
    return name


@functools.lru_cache(maxsize=1024)
def check_identifier(key: str, field: str) -> str:
    """An identifier that a client makes up: a request id or a worker.

    Raises:
        DomainError: MALFORMED_NAME at ``field``.
    """
    if len(key) > 128:
        raise DomainError(Reason.MALFORMED_NAME, f"{field} has more than 128 characters", field=field)
    return key
