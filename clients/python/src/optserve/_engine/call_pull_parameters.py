"""Reads the parameters of a session."""

from __future__ import annotations

from optserve import errors
from optserve._codec.byte_layout import ByteLayout
from optserve._codec.receive_buffers import Into, ReceiveBuffers
from optserve._transport.connection import Connection
from optserve.parameters import Parameters
from optserve.progress import make_progress_bar
from optserve.spec import member_or_none
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_service_pb2 as wire


def call_pull_parameters(
    connection: Connection,
    request: wire.PullParametersRequest,
    timeout: float,
    buffers: ReceiveBuffers,
    into: Into = None,
) -> Parameters:
    """Reads one answer to PullParameters; nothing is kept of a broken one.

    Args:
        connection: to the server.
        request: what is asked for.
        timeout: seconds.
        buffers: receive the parameters.
        into: the caller's arrays; new ones when None.

    Raises:
        grpc.RpcError: the call failed.
        Unavailable: it ended too early.
        Internal: its chunks do not fit together.
    """
    call = connection.streams.pull(request, timeout=timeout, metadata=connection.metadata)
    try:
        message = next(call, None)
        header = wire.ParametersHeader() if message is None else message.message.header
        reception = buffers.begin_reception(ByteLayout(header.layout, header.byte_count), into)
        with make_progress_bar("pull", header.byte_count, connection.progress) as shown:
            while message is not None:
                if message.chunk is not None:
                    shown.update(reception.add_chunk(message.chunk))
                if reception.is_complete:
                    return Parameters(
                        reception.complete_arrays(),
                        step=header.step,
                        point=member_or_none(ParameterPoint, header.point),
                        modified=not header.not_modified,
                    )
                message = next(call, None)
        raise errors.Unavailable("the stream ended before its answer")
    except ValueError as error:
        raise errors.Internal(str(error)) from error
    finally:
        call.cancel()
