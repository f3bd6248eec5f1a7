"""Where traces of calls begin and end; what collects them is chosen by the composition root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from optserve_server.rpc.context.calls import Call


class Span(Protocol):
    """A call, as a trace sees it."""

    def ended(self, code: str) -> None:
        """Says how the call ended: OK, CANCELLED or a reason."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def call(self, call: Call, metadata: object) -> contextlib.AbstractContextManager[Span]:
        """A span around a call, within the caller's trace where the metadata name one."""
        ...


class Untraced:
    """Traces nothing."""

    @contextlib.contextmanager
    def call(self, call: Call, metadata: object) -> Iterator[Span]:
        """A span that is not exported."""
        yield self

    def ended(self, code: str) -> None:
        """Nothing."""
