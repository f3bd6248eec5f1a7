"""PullParameters, read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from optserve import errors
from optserve._codec.dtypes import Array
from optserve._codec.parameters_header import Contents
from optserve._codec.receive_buffers import Landing
from optserve._transport.connection import Connection
from optserve.parameters import Parameters
from optserve.progress import bar
from optserve.v1 import session_service_pb2 as wire


def pulled(
    connection: Connection,
    request: wire.PullParametersRequest,
    timeout: float,
    landing: Landing,
    into: Mapping[str, Array] | None = None,
) -> Parameters:
    """Reads one answer; of a broken one nothing is kept.

    Raises:
        grpc.RpcError: the call failed.
        Unavailable: it ended too early.
    """
    call = connection.streams.pull(request, timeout=timeout, metadata=connection.metadata)
    try:
        first = next(call, None)
        if first is None:
            raise errors.Unavailable("the stream ended before its answer")
        header = first.message.header
        chunks = (message.chunk for message in chain((first,), call))
        with bar("pull", header.byte_count, connection.progress) as shown:
            return landing.take(Contents(header), header.step, chunks, into, shown)
    finally:
        call.cancel()
