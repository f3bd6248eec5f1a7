"""Limit on unary requests that are still arriving, whose memory no budget can count yet."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import RETRY_AFTER_S, Budget
from optserve_server.rpc.context.calls import Call

GRACE_S = 0.1
"""Seconds within which a request that is sent at once arrives, and is not limited."""

MAX_HEALTH_REQUESTS = 2
"""Requests of health checks that may arrive for longer than that."""

MEMORY_SHARE = 0.25
"""Of the server's memory, that requests may hold while they arrive."""


class Arrivals:
    """Limit on unary requests that are being received.

    gRPC reads a message into memory as it comes and gives its length only at the end, so each counts
    as one of ``max_message_bytes``: all of them may hold a quarter of the server's memory, and those of
    a namespace half of that and no more than its quota, but at least one. Those that take longer than
    `GRACE_S` count; the newest of too many are ended.

    Args:
        max_message_bytes: of one request.
        budget: of the server.
    """

    def __init__(self, max_message_bytes: int, budget: Budget) -> None:
        self._message_bytes = max_message_bytes
        share = int(budget.limits.get("max_memory_bytes", 0) * MEMORY_SHARE)
        self._most = self._count(share)
        self._most_of_namespace = self._count(share // 2)

    async def run(self, list_calls: Callable[[], Iterable[Call]]) -> None:
        """Keeps calls within the limits until it is cancelled."""
        while True:
            await asyncio.sleep(GRACE_S / 2)
            self.end_excess(list_calls())

    def end_excess(self, calls: Iterable[Call]) -> None:
        """Ends calls whose requests are too many."""
        late = time.monotonic() - GRACE_S
        arriving = sorted(
            (call.heard, id(call), call) for call in calls if call.arriving and call.heard < late
        )
        counts: Counter[object] = Counter()
        for _, _, call in arriving:
            namespace = call.caller.namespace if call.caller is not None else None
            most = MAX_HEALTH_REQUESTS if namespace is None else self._limit_of(namespace.budget)
            if counts[namespace] >= most or (namespace is not None and counts[self] >= self._most):
                call.cancel_with_error(_limit_error(min(most, self._most)))
            else:
                counts[namespace] += 1
                counts[self] += namespace is not None

    def _limit_of(self, budget: Budget) -> int:
        return min(self._most_of_namespace, self._count(budget.limits.get("max_bytes", 0)))

    def _count(self, byte_count: int) -> int:
        """How many requests fit into a limit in bytes; 0 is no limit."""
        return max(1, byte_count // self._message_bytes) if byte_count else 1 << 30


def _limit_error(most: int) -> DomainError:
    return DomainError(
        Reason.LIMIT_EXCEEDED,
        f"the request takes longer than {GRACE_S:g} s to arrive, as {most} others do",
        metadata={"limit": "arriving_requests", "value": most, "applied": "no"},
        retry_after=RETRY_AFTER_S,
    )
