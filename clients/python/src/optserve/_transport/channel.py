"""Protocol of a channel for the messages of a step stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from optserve._codec.framing import Encoded
from optserve._transport.data_connection import PartialMessage

Pieces = Sequence[Any]
"""One encoded message in pieces: contiguous buffers, which stay where they are until it is sent."""

Message = Encoded | PartialMessage
"""A received message; valid until the next one is received."""


class Channel(Protocol):
    """Carries the messages of one StepStream call, in order.

    One thread at a time sends and receives; `cancel` may come from any. A call that fails raises
    ``grpc.RpcError``, or `optserve.errors.Unavailable` if it can be opened again.
    """

    def send(self, messages: Iterable[Pieces], idle: bool) -> None:
        """Sends messages, which are made while they are sent.

        Args:
            messages: in order.
            idle: whether everything that was sent before is answered. If not, they are sent in the
                background, because the server may read them only when its answers are read.
        """
        ...

    def receive(self) -> Message | None:
        """Waits for a message; None if the call ended without an error."""
        ...

    def cancel(self) -> None:
        """Ends the call at once; `receive` then raises."""
        ...

    def finish(self) -> None:
        """Ends the call when everything is sent; for when everything is answered."""
        ...

    def detach_in_child(self) -> None:
        """Releases the channel in a forked child, without a word to the server."""
        ...
