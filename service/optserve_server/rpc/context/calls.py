"""The current call: caller, request id, and fields for logs and errors."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from optserve_server.errors import DomainError
from optserve_server.resources.budget import Charge
from optserve_server.resources.fair_queue import Flow
from optserve_server.rpc.authentication.identity import Caller
from optserve_server.sessions.namespaces import Namespace
from optserve_server.state.session_state import MANY_TENSORS

REQUEST_ID_KEY = "x-request-id"
"""Metadata that name a request, on its way in and out."""


@dataclass(eq=False)
class Call:
    """One RPC.

    Attributes:
        request_id: the client's name for it, or the server's.
        method: full name, as in ``/optserve.v1.SessionService/Step``.
        caller: who makes it; None until it is admitted.
        session: id of the session that it concerns, once that is known.
        worker: name of the worker that it concerns, once that is known.
        heard: when its stream last moved, by the monotonic clock.
        moves: whether messages are still to come or to go, so that silence means something.
        waits: whether it waits for something that others do.
        task: what answers it, once that has begun.
        verdict: why the server ended it before its own end, if it did.
        arriving: whether its only request is being received.
        charge: the memory of its request, where it is one message.
        is_answer_long: whether encoding its answer takes too long for the event loop.
        has_ended: whether it was answered, or its client has left.
        code: how it ended: OK, CANCELLED or a reason.
        begun: when it began, by the performance counter in nanoseconds.
    """

    request_id: str
    method: str
    caller: Caller | None = None
    session: str = ""
    worker: str = ""
    heard: float = field(default_factory=time.monotonic)
    moves: bool = True
    waits: bool = False
    task: asyncio.Task[Any] | None = None
    verdict: DomainError | None = None
    arriving: bool = False
    charge: Charge | None = None
    is_answer_long: bool = False
    has_ended: bool = False
    code: str = "CANCELLED"
    begun: int = field(default_factory=time.perf_counter_ns)

    def cancel_with_error(self, verdict: DomainError) -> None:
        """Ends it from outside: its task is cancelled, and the caller gets the reason."""
        if self.task is not None and self.verdict is None:
            self.verdict = verdict
            self.task.cancel()


current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)
"""The call that the running task answers."""


@contextlib.contextmanager
def suspend_idle_timeout() -> Iterator[None]:
    """Does not count the running call as silent while it waits for something that others do."""
    call = current.get()
    if call is None:
        yield
        return
    moves, call.moves, call.waits = call.moves, False, True
    try:
        yield
    finally:
        call.moves, call.waits, call.heard = moves, False, time.monotonic()


def current_namespace() -> Namespace:
    """The namespace that the running call belongs to."""
    call = current.get()
    assert call is not None  # handlers run within the interceptor
    assert call.caller is not None
    return call.caller.namespace


def current_flow() -> Flow | None:
    """What the running call shares resources as; None if there is no call."""
    call = current.get()
    return None if call is None or call.caller is None else call.caller.namespace.budget


def make_left_check() -> Callable[[], None]:
    """A function, for any thread, that raises CancelledError once the client of the running call has left."""
    call = current.get()

    def check() -> None:
        if call is not None and call.has_ended:
            raise CancelledError

    return check


def note_worker(worker: str) -> None:
    """Notes the worker that the running call, if there is one, concerns: a name that was checked."""
    call = current.get()
    if call is not None:
        call.worker = worker


def note_answer_size(count: int) -> None:
    """Notes that the answer to the running call, if there is one, describes so many tensors."""
    call = current.get()
    if call is not None and count > MANY_TENSORS:
        call.is_answer_long = True
