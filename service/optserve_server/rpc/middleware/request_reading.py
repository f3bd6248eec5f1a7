"""Bytes that came in, made into requests; those that cannot be read become a refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

from google.protobuf.message import DecodeError
from grpc import aio

from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Charge, Kind
from optserve_server.rpc.context.calls import Call
from optserve_server.rpc.context.meters import Meters

Deserializer = Callable[[bytes], Any]

COPIES_PER_UNARY_REQUEST = 2
"""How often a unary request's bytes are held: as they came, and as a message."""


UNREADABLE = "the message's bytes cannot be read"
"""What is said of bytes that are no message."""


class Unreadable:
    """Stands where a request should be; whoever reads from it is told why it is none.

    gRPC would answer an exception of a deserializer by itself, with the exception's text.
    """

    def __init__(self, error: DomainError) -> None:
        self.error = error

    @property
    def message(self) -> NoReturn:
        """Raises, where a stream asks for its message."""
        raise self.error

    @property
    def chunk(self) -> NoReturn:
        """Raises, where a stream asks for its bytes."""
        raise self.error


async def only(context: aio.ServicerContext[Any, Any]) -> Any:
    """The request of a call that has one.

    Raises:
        DomainError: MALFORMED_MESSAGE where there is none to read.
    """
    # Not by iterating: to end an iterator that has not ended costs a task.
    request: Any = await context.read()
    if request is aio.EOF:
        raise DomainError(Reason.MALFORMED_MESSAGE, "the call came without its request")
    if isinstance(request, Unreadable):
        raise request.error
    return request


def reader(deserialize: Deserializer, call: Call, meters: Meters, *, streamed: bool) -> Deserializer:
    """What reads the requests of a call.

    Args:
        deserialize: reads the bytes.
        call: whose requests they are. A unary one counts as bytes in flight until it ends; a
            stream's message lives only until its bytes are in their place, which are counted.
        meters: count the bytes.
        streamed: whether there may be many.
    """
    budget = call.caller.namespace.budget

    def read(data: bytes) -> Any:
        call.heard = time.monotonic()
        meters.bytes_received += len(data)
        try:
            if not streamed:
                call.charge = Charge(budget, Kind.IN_FLIGHT, COPIES_PER_UNARY_REQUEST * len(data))
            return deserialize(data)
        except DomainError as error:
            return Unreadable(error)
        except (DecodeError, ValueError):
            return Unreadable(DomainError(Reason.MALFORMED_MESSAGE, UNREADABLE))

    return read


def writer(serialize: Callable[[Any], bytes], meters: Meters) -> Callable[[Any], bytes]:
    """What writes the responses of a call, and counts their bytes."""

    def write(message: Any) -> bytes:
        data = serialize(message)
        meters.bytes_sent += len(data)
        return data

    return write
