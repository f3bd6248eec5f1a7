"""Idempotency of requests: a repeated one gets the first answer and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import xxhash
from google.protobuf.message import Message

from optserve_server.durability.change_records import RequestedChange
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.execution.shielded_coroutine import ShieldedCoroutine
from optserve_server.sessions.request_ledger import AnsweredRequest, RequestLedger
from optserve_server.sessions.session import Session
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.session_change import Request
from optserve_server.wire.messages.answers import answer_to, change_kind, decode_answer

M = TypeVar("M", bound=Message)


async def answer_once(requests: RequestLedger, request: Request, act: Callable[[], Awaitable[M]]) -> M:
    """Answers a request once, to its end even if its caller leaves; a repeat gets the first answer.

    Args:
        requests: the answered requests of its namespace.
        request: its idempotency key, and its content as `digest_request` makes it.
        act: does what is asked. Its errors are not stored.

    Returns:
        The answer of ``act``, or the stored answer that the same request got before.

    Raises:
        DomainError: REQUEST_ID_REUSED, or what ``act`` raises.
    """
    answering = ShieldedCoroutine(_answer_once(requests, request, act))
    if not request.key:
        return await answering
    with requests.audiences[request.key].join():
        return await answering


async def _answer_once(requests: RequestLedger, request: Request, act: Callable[[], Awaitable[M]]) -> M:
    if not request.key:
        return await act()
    async with requests.locks[request.key]:
        known = requests.find_answer(request)
        if known is not None:
            return cast(M, decode_answer(known.kind, known.answer))
        answer = await act()
        if requests.find_answer(request) is None:  # if it is durable, its answer was stored with it
            requests.remember_answer(
                AnsweredRequest(request, change_kind(answer), answer.SerializeToString())
            )
        return answer


def digest_request(message: Message, payload: memoryview | bytes = b"") -> bytes:
    """A digest of a request's kind, fields and payload."""
    digest = xxhash.xxh3_128(message.DESCRIPTOR.full_name.encode())
    digest.update(message.SerializeToString(deterministic=True))
    digest.update(payload)
    return digest.digest()


async def commit_change(execution: Execution, session: Session, change: RequestedChange) -> Message:
    """Commits a change that a request asks for; returns its answer.

    Raises:
        DomainError: what its preparation raises, STORAGE_FULL or STORAGE_UNAVAILABLE.
    """

    def apply(prepared: Prepared[Any]) -> Message:
        answer, durability = answer_to(change.kind, session, prepared.commit()), session.durability
        if durability is not None and change.request.key:
            # Before the session is unlocked, so that a snapshot that holds the change holds its answer.
            owner, data = durability.folder.owner, answer.SerializeToString()
            durability.requests.remember_answer(AnsweredRequest(change.request, change.kind, data, owner))
        return answer

    return await execution.commit(session, change, apply)
