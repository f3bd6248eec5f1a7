"""A bidirectional call over gRPC's public interface, which sends from a thread of its own."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from itertools import chain
from typing import Any


class QueuedCall:
    """One bidirectional call: what is put into it is sent in the background.

    Args:
        method: the callable of a stream of bytes both ways.
        metadata: sent with the call.
    """

    def __init__(self, method: Any, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._outbox: queue.SimpleQueue[Iterable[bytes] | None] = queue.SimpleQueue()
        self._rpc = method(chain.from_iterable(iter(self._outbox.get, None)), metadata=metadata)

    def put(self, messages: Iterable[bytes]) -> None:
        """Sends messages after those before them; they are made while they are sent."""
        self._outbox.put(messages)

    def receive(self) -> bytes | None:
        """Waits for an answer.

        Returns:
            The answer; None where the call ended well without one.

        Raises:
            grpc.RpcError: the call failed.
        """
        return next(self._rpc, None)

    def cancel(self) -> None:
        """Ends the call from any thread."""
        self._rpc.cancel()

    def finish(self) -> None:
        """Says that nothing more will be sent."""
        self._outbox.put(None)

    def close(self) -> None:
        """Ends the call at once, and the thread that sends."""
        self._rpc.cancel()
        self._outbox.put(None)

    def __del__(self) -> None:
        if hasattr(self, "_rpc"):
            self.close()
