"""Ledger of answered requests, so that a repeated one changes nothing."""

from __future__ import annotations

from collections import OrderedDict

from optserve_server.errors import DomainError, Reason


class RequestLedger:
    """The answers to the last requests that carried a request id.

    Args:
        capacity: how many answers are kept, unless more were restored.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, tuple[bytes, object]] = OrderedDict()

    def lookup(self, key: str, digest: bytes) -> object | None:
        """The answer given under ``key``; None if there is none.

        Raises:
            DomainError: REQUEST_ID_REUSED if it was given to another content.
        """
        if key not in self._answers:
            return None
        known, answer = self._answers[key]
        if known != digest:
            raise DomainError(
                Reason.REQUEST_ID_REUSED, "the request id was used with another content", field="request_id"
            )
        return answer

    def restore(self, key: str, digest: bytes, answer: object) -> None:
        """Keeps an answer beside those that are there, however many."""
        self._answers[key] = (digest, answer)
        self._capacity = max(self._capacity, len(self._answers))

    def remember(self, key: str, digest: bytes, answer: object) -> None:
        """Keeps an answer, forgetting the oldest beyond the capacity."""
        self._answers[key] = (digest, answer)
        while len(self._answers) > self._capacity:
            self._answers.popitem(last=False)
