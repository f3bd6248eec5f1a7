"""What is known of the call that is being answered, for logs and error details."""

from __future__ import annotations

import contextvars
import re
import secrets
from dataclasses import dataclass

REQUEST_ID_KEY = "x-request-id"
"""Metadata that name a request, on its way in and out."""

_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Call:
    """One RPC.

    Attributes:
        request_id: the client's name for it, or the server's.
        method: full name, as in ``/optserve.v1.SessionService/Step``.
        session: id of the session that it concerns, once that is known.
    """

    request_id: str
    method: str
    session: str = ""


current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)
"""The call that the running task answers."""


def request_id_from(metadata: object) -> str:
    """The request id among a call's metadata, or a new one where there is none to use."""
    for key, value in metadata or ():  # type: ignore[attr-defined]  # grpc leaves its type open
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTABLE.fullmatch(value):
            return value
    return secrets.token_hex(8)


def concerns(session_id: str) -> None:
    """Notes which session the running call concerns."""
    call = current.get()
    if call is not None:
        call.session = session_id
