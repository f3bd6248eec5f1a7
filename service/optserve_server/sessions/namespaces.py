"""Namespaces: isolated sets of sessions with quotas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optserve_server.arrays.backend import Backend
from optserve_server.resources.budget import Budget
from optserve_server.sessions.keyed_locks import KeyedLocks
from optserve_server.sessions.request_ledger import RequestLedger
from optserve_server.sessions.store import Limits, Store

DEFAULT = ""
"""The namespace of callers that none was given to."""

EVERY = "*"
"""What a quota is filed under that holds for each namespace without one of its own."""


@dataclass(frozen=True)
class Quota:
    """Quota of a namespace; 0 means no limit. Bytes are those of sessions and of calls in flight.

    Attributes:
        weight: share of threads, event loop and journal beside those of other namespaces, at least 1.
    """

    max_sessions: int = 0
    max_bytes: int = 0
    max_requests_in_flight: int = 0
    weight: int = 1


class Namespace:
    """One namespace: its store and its budget.

    Args:
        name: its name.
        store: its sessions.
        budget: what they and its calls count against.

    Attributes:
        requests: the requests that it got answered.
        creation_locks: held while the session of an id is being made.
    """

    def __init__(self, name: str, store: Store, budget: Budget) -> None:
        self.name = name
        self.store = store
        self.budget = budget
        self.requests = RequestLedger()
        self.creation_locks = KeyedLocks()


class Namespaces:
    """All namespaces of a server, each made when it is first asked for.

    Args:
        backend: where sessions' arrays live.
        limits: of every store.
        budget: of the server as a whole.
    """

    def __init__(self, backend: Backend, limits: Limits | None = None, budget: Budget | None = None) -> None:
        self.backend = backend
        self.limits = limits or Limits()
        self.budget = budget or Budget({"max_sessions": self.limits.max_sessions})
        self._quotas: Mapping[str, Quota] = {}
        self._known: dict[str, Namespace] = {}

    def __getitem__(self, name: str) -> Namespace:
        namespace = self._known.get(name)
        if namespace is None:
            budget = Budget({}, self.budget, name)
            self._apply_quota(name, budget)
            namespace = Namespace(name, Store(self.backend, self.limits, budget), budget)
            self._known[name] = namespace
        return namespace

    def __iter__(self) -> Iterator[Namespace]:
        return iter(tuple(self._known.values()))

    def set_quotas(self, quotas: Mapping[str, Quota]) -> None:
        """Replaces all quotas. What exceeds a new one stays, and nothing is added to it."""
        self._quotas = dict(quotas)
        for namespace in self:
            self._apply_quota(namespace.name, namespace.budget)

    def _apply_quota(self, name: str, budget: Budget) -> None:
        quota = self._quotas.get(name) or self._quotas.get(EVERY) or Quota()
        budget.weight = float(quota.weight)
        budget.limits = {
            "max_sessions": quota.max_sessions,
            "max_bytes": quota.max_bytes,
            "max_requests_in_flight": quota.max_requests_in_flight,
        }
