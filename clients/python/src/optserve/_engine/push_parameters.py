"""Uploads of parameters."""

from __future__ import annotations

import uuid

from optserve._codec.framing import Framing
from optserve._codec.payload import Payload, encode_pieces
from optserve._transport.connection import Connection
from optserve._transport.retry import transfer_timeout
from optserve.progress import make_progress_bar
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as wire

PUSHES = Framing(wire.PushParametersRequest)


def push_parameters(
    connection: Connection,
    header: wire.PushHeader,
    payload: Payload,
    timeout: float | None = None,
    progress: bool | None = None,
) -> session_pb2.Session:
    """Uploads a uniform payload under a request id of its own, from the start again after a break.

    Raises:
        ValueError: the payload is empty.
        OptserveError: the server refused, or could not be reached.
    """
    if not payload.arrays:
        raise ValueError("no parameter is given")
    header.request_id = uuid.uuid4().hex
    header.tensors.extend(payload.header_names)
    header.wire_dtype = payload.data_type
    header.byte_count = payload.byte_count
    shows = connection.progress if progress is None else progress

    def attempt(left: float) -> session_pb2.Session:
        with make_progress_bar("upload", payload.byte_count, shows) as shown:
            head = wire.PushParametersRequest(header=header).SerializeToString()
            messages = encode_pieces(PUSHES, head, payload.arrays, payload.byte_count, shown.update)
            response: wire.PushParametersResponse = connection.streams.push(
                map(b"".join, messages), timeout=left, metadata=connection.metadata
            )
        return response.session

    return connection.run(
        attempt, transfer_timeout(connection.timeout, payload.byte_count) if timeout is None else timeout
    )
