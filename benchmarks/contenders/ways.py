"""Which way a stream's steps went: a client takes another with no more than a line in its log."""

from __future__ import annotations

import optserve
from optserve._transport.data_channel import DataChannel

DATA, GRPC = "data", "grpc"
WAYS = (DATA, GRPC)
"""A data connection, TCP beside gRPC, which is the default; and the call itself."""


def went(stream: optserve.StepStream, way: str) -> None:
    """Holds a stream that was stepped against the way that its contender is named after.

    Raises:
        RuntimeError: its last step went another way.
    """
    call = stream._engine._channel
    if call is None:
        raise RuntimeError("the stream has no call, though it was stepped")
    actual = DATA if isinstance(call, DataChannel) and call._connection is not None else GRPC
    if actual != way:
        raise RuntimeError(f"the stream's steps were to go by {way}, and went by {actual}")
