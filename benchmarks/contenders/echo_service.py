"""EchoService of the drivers' protocol, on asyncio and uvloop: returns the bytes that it receives.

``python -m benchmarks.contenders.echo_service``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from grpc import aio

from clients.python.conformance.stubs.echo_service_pb2 import ExchangeRequest, ExchangeResponse

SERVICE = "optserve.conformance.v1.EchoService"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]


async def exchange(requests: AsyncIterator[ExchangeRequest], context: Any) -> AsyncIterator[ExchangeResponse]:
    """Answers each exchange when all its bytes have arrived; every exchange fills one buffer again."""
    buffer, filled, chunk = memoryview(b""), 0, 0
    async for request in requests:
        if request.byte_count:
            buffer = memoryview(bytearray(request.byte_count))
            continue
        data = request.data
        chunk = chunk if filled else len(data)
        buffer[filled : filled + len(data)] = data
        filled += len(data)
        if filled == len(buffer):
            for start in range(0, filled, chunk):
                yield ExchangeResponse(data=bytes(buffer[start : start + chunk]))
            filled = 0


async def main() -> None:
    """Serves until standard input closes."""
    server = aio.server(options=OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(
        exchange,
        request_deserializer=ExchangeRequest.FromString,
        response_serializer=ExchangeResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Exchange": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
