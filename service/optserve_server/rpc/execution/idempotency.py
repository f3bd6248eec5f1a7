"""Idempotency of requests: a repeated one gets the first answer and changes nothing."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import xxhash
from google.protobuf.message import Message

from optserve_server.durability.change_records import RequestedChange
from optserve_server.rpc.execution.completion import Completion
from optserve_server.rpc.execution.execution import Execution
from optserve_server.sessions.request_ledger import RequestLedger
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import AnsweredRequest, SessionDurability
from optserve_server.state.change import ChangeKind, Request
from optserve_server.state.prepared_change import Prepared
from optserve_server.wire.messages.answers import answer_to

M = TypeVar("M", bound=Message)


class Idempotency:
    """Answers requests that carry a request id, each once, to its end even if its caller leaves."""

    def __init__(self) -> None:
        self._ledger = RequestLedger()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def once(self, request_id: str, content: bytes, act: Callable[[], Awaitable[M]]) -> M:
        """Returns the answer of ``act``, or the stored answer of the same request.

        Args:
            request_id: the idempotency key; empty for none.
            content: what tells this request from another, as `content_of` makes it.
            act: does what is asked. Its errors are not kept.

        Raises:
            DomainError: REQUEST_ID_REUSED, or what ``act`` raises.
        """
        return await Completion(self._once(request_id, content, act))

    def remember(self, request_id: str, content: bytes, answer: Message) -> None:
        """Keeps an answer that was given in an earlier life of the server."""
        self._ledger.restore(request_id, content, answer)

    async def _once(self, request_id: str, content: bytes, act: Callable[[], Awaitable[M]]) -> M:
        if not request_id:
            return await act()
        # The lock lives as long as a call holds or awaits it.
        lock = self._locks.setdefault(request_id, asyncio.Lock())
        async with lock:
            known = self._ledger.lookup(request_id, content)
            if known is not None:
                return cast(M, known)
            answer = await act()
            self._ledger.remember(request_id, content, answer)
            return answer


def content_of(message: Message, payload: memoryview | bytes = b"") -> bytes:
    """A digest of a request's kind, fields and payload."""
    digest = xxhash.xxh3_128(message.DESCRIPTOR.full_name.encode())
    digest.update(message.SerializeToString(deterministic=True))
    digest.update(payload)
    return digest.digest()


async def make_change(execution: Execution, session: Session, change: RequestedChange) -> Message:
    """Makes a change that a request asks for; returns its answer.

    Raises:
        DomainError: what its preparation raises, STORAGE_FULL or STORAGE_UNAVAILABLE.
    """

    def apply(prepared: Prepared[Any]) -> Message:
        answer = answer_to(change.kind, session, prepared.commit())
        if session.durability is not None:
            remember(session.durability, change.request, change.kind, answer)
        return answer

    return await execution.commit(session, change, apply)


def remember(
    durability: SessionDurability[Session], request: Request, kind: ChangeKind, answer: Message
) -> None:
    """Stores the answer to a request that has an idempotency key, with the session's files."""
    if request.key:
        durability.answered.append(AnsweredRequest(request, kind, answer.SerializeToString()))
