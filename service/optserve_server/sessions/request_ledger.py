"""Ledger of answered requests, so that a repeated one changes nothing."""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.audience import Audiences
from optserve_server.sessions.keyed_locks import KeyedLocks
from optserve_server.state.session_change import ChangeKind, Request

MIN_COMPRESSED_BYTES = 1024
"""Length from which an answer is stored compressed: those that describe many tensors shrink to a tenth."""


@dataclass(frozen=True)
class AnsweredRequest:
    """A request that was answered.

    Attributes:
        request: the request.
        kind: what it asked for.
        answer: the serialized response.
        owner: owner of the journal's records, and so of the snapshot, in which it is stored; 0 if it
            is held in memory alone.
        is_compressed: whether the answer is compressed, as long ones are while they are stored.
    """

    request: Request
    kind: ChangeKind
    answer: bytes
    owner: int = 0
    is_compressed: bool = False

    def compress(self) -> Self:
        """The form in which it is stored."""
        if self.is_compressed or len(self.answer) < MIN_COMPRESSED_BYTES:
            return self
        return replace(self, answer=zlib.compress(self.answer, 1), is_compressed=True)

    def decompress(self) -> Self:
        """The request with its answer as it was serialized."""
        if not self.is_compressed:
            return self
        return replace(self, answer=zlib.decompress(self.answer), is_compressed=False)

    def to_json(self) -> list[Any]:
        """The form in which records and snapshots hold it, for JSON."""
        stored = self.compress()
        answer = base64.b85encode(stored.answer).decode()
        return [self.request.key, self.request.content.hex(), self.kind.value, answer, stored.is_compressed]

    @classmethod
    def from_json(cls, state: Sequence[Any], owner: int) -> AnsweredRequest:
        """The request that `to_json` described."""
        key, content, kind, text, is_compressed = state
        request, answer = Request(key, bytes.fromhex(content)), base64.b85decode(text)
        return cls(request, ChangeKind(kind), answer, owner, is_compressed)


class RequestLedger:
    """The answers to the last requests of a namespace that carried a request id.

    Args:
        capacity: how many answers are stored, unless more were restored.

    Attributes:
        locks: held by requests of one key while they are answered.
        audiences: the calls that wait for the answer to a request, by its key.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._answers: dict[str, AnsweredRequest] = {}
        self._lock = threading.Lock()
        self.locks = KeyedLocks()
        self.audiences = Audiences()

    def find_answer(self, request: Request) -> AnsweredRequest | None:
        """The answer that the request got; None if there is none.

        Raises:
            DomainError: REQUEST_ID_REUSED if it was given to another content.
        """
        known = self._answers.get(request.key)
        if known is not None and known.request.content != request.content:
            raise DomainError(
                Reason.REQUEST_ID_REUSED, "the request id was used with another content", field="request_id"
            )
        return None if known is None else known.decompress()

    def restore_answer(self, answered: AnsweredRequest) -> None:
        """Stores an answer beside those that are there, however many."""
        answered = answered.compress()
        with self._lock:
            self._answers[answered.request.key] = answered
            self._capacity = max(self._capacity, len(self._answers))

    def remember_answer(self, answered: AnsweredRequest) -> None:
        """Stores an answer, if its request has a key, and forgets the oldest beyond the capacity."""
        if not answered.request.key:
            return
        answered = answered.compress()
        with self._lock:
            self._answers[answered.request.key] = answered
            if len(self._answers) > self._capacity:
                del self._answers[next(iter(self._answers))]

    def to_json(self, owner: int, count: int) -> list[list[Any]]:
        """The last ``count`` answers of an owner, the oldest first, for JSON."""
        with self._lock:
            owned = [answered for answered in self._answers.values() if answered.owner == owner]
        return [answered.to_json() for answered in owned[-count:]]
