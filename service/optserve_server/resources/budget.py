"""Resource budgets: usage and limits of a namespace, and of the server.

Memory is counted before it is allocated, and released when the object that holds it is freed, so
that what an open stream or a slow reader still keeps alive stays counted.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.garbage import collect_garbage

RETRY_AFTER_S = 0.5
"""Seconds after which what is under way may have ended."""

Make = Callable[[int], npt.NDArray[np.uint8]]


def _allocate_bytes(byte_count: int) -> npt.NDArray[np.uint8]:
    return np.empty(byte_count, np.uint8)


class Kind(StrEnum):
    """Kind of resource."""

    SESSIONS = "sessions"
    RESIDENT = "resident_bytes"
    IN_FLIGHT = "bytes_in_flight"
    REQUESTS = "requests_in_flight"


COUNTED: Mapping[str, tuple[Kind, ...]] = {
    "max_sessions": (Kind.SESSIONS,),
    "max_bytes": (Kind.RESIDENT, Kind.IN_FLIGHT),
    "max_memory_bytes": (Kind.RESIDENT, Kind.IN_FLIGHT),
    "max_resident_bytes": (Kind.RESIDENT,),
    "max_bytes_in_flight": (Kind.IN_FLIGHT,),
    "max_requests_in_flight": (Kind.REQUESTS,),
    "max_concurrent_rpcs": (Kind.REQUESTS,),
}
"""The kinds whose sum a limit bounds."""

_PASSING = (Kind.IN_FLIGHT, Kind.REQUESTS)
"""Resources that are released when calls end."""

_OF_OBJECTS = (Kind.RESIDENT, Kind.IN_FLIGHT)
"""What is given back when objects die, which those in cycles do when the collector comes."""

_MIN_COLLECTION_INTERVAL = 0.1
"""Seconds between two collections before a refusal, so that refusing stays cheap."""


class Budget:
    """Counts the usage of resources and rejects what exceeds a limit. Thread-safe.

    Args:
        limits: by the names in `COUNTED`; 0 means no limit.
        parent: a budget that everything counts against as well.
        namespace: whose quota this is; None for the server's own limits.

    Attributes:
        refused: reservations that were rejected.
        weight: share of threads, event loop and journal beside those of other namespaces.
    """

    def __init__(
        self, limits: Mapping[str, int], parent: Budget | None = None, namespace: str | None = None
    ) -> None:
        self.limits = dict(limits)
        self.refused = 0
        self.weight = 1.0
        self._parent = parent
        self._namespace = namespace
        self._held = dict.fromkeys(Kind, 0)
        # Objects are finalized at any moment, also within the lock: what they release waits here.
        self._returned: deque[tuple[Kind, int]] = deque()
        self._lock: threading.Lock = threading.Lock() if parent is None else parent._lock

    def check_available(self, kind: Kind, amount: int) -> None:
        """Refuses what `reserve` would refuse now, and counts nothing.

        Raises:
            DomainError: LIMIT_EXCEEDED or QUOTA_EXCEEDED.
        """
        with self._lock:
            self._check_all(kind, amount)

    def has_room(self, kind: Kind, amount: int) -> bool:
        """Whether `reserve` would succeed now."""
        try:
            self.check_available(kind, amount)
        except DomainError:
            return False
        return True

    def reserve(self, kind: Kind, amount: int) -> None:
        """Counts what is about to be held.

        Raises:
            DomainError: LIMIT_EXCEEDED or QUOTA_EXCEEDED; nothing was counted.
        """
        try:
            self._reserve_once(kind, amount)
        except DomainError as error:
            if kind not in _OF_OBJECTS or not collect_garbage(_MIN_COLLECTION_INTERVAL):
                raise
            self._find_refusing_budget(error).refused -= 1  # tried again, not refused
            self._reserve_once(kind, amount)

    def _count_refusal(self, error: DomainError) -> DomainError:
        """Counts a refusal and returns it: a name for it here would keep its callers' objects alive."""
        self._find_refusing_budget(error).refused += 1
        return error

    def _find_refusing_budget(self, error: DomainError) -> Budget:
        """The budget whose limit a refusal is of."""
        return (self._parent if error.reason is Reason.LIMIT_EXCEEDED else self) or self

    def _reserve_once(self, kind: Kind, amount: int) -> None:
        with self._lock:
            for level in self._check_all(kind, amount):
                level._held[kind] += amount

    def release(self, kind: Kind, amount: int) -> None:
        """Counts what is held no longer."""
        self._returned.append((kind, amount))
        if self._parent is not None:
            self._parent._returned.append((kind, amount))

    def usage(self, kind: Kind) -> int:
        """Returns the amount of a resource that is in use."""
        with self._lock:
            self._apply_releases()
            return self._held[kind]

    def allocate_array(
        self, byte_count: int, make: Make = _allocate_bytes, kind: Kind = Kind.IN_FLIGHT
    ) -> npt.NDArray[np.uint8]:
        """Memory for bytes (uint8), counted for as long as it or a view of it lives.

        Args:
            byte_count: how many.
            make: gives the memory.
            kind: what they count as.

        Raises:
            DomainError: LIMIT_EXCEEDED or QUOTA_EXCEEDED; no memory was taken.
        """
        self.reserve(kind, byte_count)
        try:
            owner = make(byte_count)
        except MemoryError:
            self.release(kind, byte_count)
            raise
        # Views, and theirs, have the owner of the memory as their base.
        weakref.finalize(owner, self.release, kind, byte_count).atexit = False
        return owner

    def _check_all(self, kind: Kind, amount: int) -> list[Budget]:
        """Checks every limit on a kind, and counts a refusal; the lock is held."""
        levels = [self] if self._parent is None else [self, self._parent]
        for level in levels:
            if level._returned:
                level._apply_releases()
            for name, limit in level.limits.items():
                kinds = COUNTED[name]
                if limit and kind in kinds:
                    held = level._held
                    if (held[kinds[0]] + held[kinds[1]] if len(kinds) > 1 else held[kind]) + amount > limit:
                        raise self._count_refusal(level._limit_error(name, limit, kind, amount))
        return levels

    def _apply_releases(self) -> None:
        while self._returned:
            kind, amount = self._returned.popleft()
            self._held[kind] -= amount

    def _limit_error(self, name: str, limit: int, kind: Kind, amount: int) -> DomainError:
        held = sum(self._held[k] for k in COUNTED[name])
        may_pass = kind in _PASSING and amount <= limit
        after = RETRY_AFTER_S if may_pass else None
        facts: dict[str, object] = {"value": limit}
        if self._namespace is None:
            text = f"{amount} more would exceed the server's {name}, {limit}"
            metadata = {"limit": name} | facts
            return DomainError(Reason.LIMIT_EXCEEDED, text, metadata=metadata, retry_after=after)
        text = f"{amount} more, beside {held}, would exceed the namespace's {name}, {limit}"
        metadata = {"quota": name, "namespace": self._namespace} | facts
        return DomainError(Reason.QUOTA_EXCEEDED, text, metadata=metadata, retry_after=after)


class Charge:
    """Resources that an object holds, released together with it.

    Args:
        budget: what it counts against.
        kind: what is held.
        amount: how much, at first.

    Raises:
        DomainError: as `Budget.reserve`.
    """

    amount = 0  # for __del__ where take raised

    def __init__(self, budget: Budget, kind: Kind, amount: int) -> None:
        self._budget = budget
        self._kind = kind
        budget.reserve(kind, amount)
        self.amount = amount

    def raise_to(self, amount: int) -> None:
        """Holds at least that much from now on.

        Raises:
            DomainError: as `Budget.reserve`; the amount stays.
        """
        if amount > self.amount:
            self._budget.reserve(self._kind, amount - self.amount)
            self.amount = amount

    def lower_to(self, amount: int) -> None:
        """Holds at most that much from now on."""
        if amount < self.amount:
            self._budget.release(self._kind, self.amount - amount)
            self.amount = amount

    def __del__(self) -> None:
        if self.amount:
            self._budget.release(self._kind, self.amount)


UNBOUNDED = Budget({})
"""A budget without limits."""
