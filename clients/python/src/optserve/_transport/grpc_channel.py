"""A channel of steps over gRPC's public interface."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable
from itertools import chain
from typing import Any

import grpc

from optserve._transport import fork
from optserve._transport.base_connection import Metadata
from optserve._transport.channel import Pieces


class GrpcChannel:
    """One bidirectional call; gRPC sends from a thread of its own. See `Channel`.

    Args:
        method: the callable of a stream of bytes both ways.
        metadata: sent with the call.
    """

    def __init__(self, method: Any, metadata: Metadata = ()) -> None:
        self._outbox: queue.SimpleQueue[Iterable[bytes] | None] = queue.SimpleQueue()
        self._call = method(chain.from_iterable(iter(self._outbox.get, None)), metadata=metadata)

    def send(self, messages: Iterable[Pieces], idle: bool = False) -> None:
        """Sends messages in the background."""
        self._outbox.put(map(b"".join, messages))

    def receive(self) -> bytes | None:
        """Waits for a message; None if the call ended without an error.

        Raises:
            grpc.RpcError: the call failed.
        """
        return next(self._call, None)

    def cancel(self) -> None:
        """Ends the call, and the thread that sends."""
        self._call.cancel()
        self._outbox.put(None)

    def half_close(self) -> None:
        """Says that no more messages are sent."""
        self._outbox.put(None)

    def finish(self) -> None:
        """Half-closes the call, and waits for the server to end it."""
        self.half_close()
        with contextlib.suppress(grpc.RpcError):
            next(self._call, None)

    def detach_in_child(self) -> None:
        """Keeps the call from being ended in a forked child, where it is the parent's."""
        fork.keep_alive(self._call, self._outbox)
        self._call, self._outbox = fork.NoCall(), queue.SimpleQueue()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.cancel()
