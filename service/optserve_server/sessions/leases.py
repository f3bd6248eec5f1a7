"""Leases: expiry of unused sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from optserve_server.sessions.namespaces import Namespace, Namespaces
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import ExpiryAction, LeaseSpec


@dataclass(frozen=True)
class Expired:
    """A session whose lease expired, and its expiry action."""

    namespace: Namespace
    session: Session
    action: ExpiryAction

    def is_unused_since(self, moment: float) -> bool:
        """Whether it was unused since, by the monotonic clock."""
        return self.session.activity.used < moment


def effective_lease(session: Session, default_seconds: float) -> LeaseSpec | None:
    """A session's own lease, or the server's, which never deletes; None for neither.

    Args:
        session: the session.
        default_seconds: the server's; 0 for none.
    """
    if session.spec.lease is not None:
        return session.spec.lease
    return LeaseSpec(seconds=default_seconds) if default_seconds else None


def find_expired(namespaces: Namespaces, default_seconds: float) -> Iterator[Expired]:
    """The sessions whose leases are over. One that works now is in use."""
    now = time.monotonic()
    for namespace in namespaces:
        for session in namespace.store.list_sessions():
            lease = effective_lease(session, default_seconds)
            over = lease is not None and now - session.activity.used > lease.seconds
            if lease is not None and over and not session.lock.locked():
                yield Expired(namespace, session, lease.on_expiry)
