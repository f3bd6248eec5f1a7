"""A bare gRPC server on asyncio: receives bytes into one buffer, and sends them back from it.

``python -m benchmarks.contenders.echo_server BYTES CHUNK_BYTES``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from grpc import aio

METHOD = "/bare.Echo/Exchange"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]


class Service:
    """One buffer, which every exchange fills again."""

    def __init__(self, byte_count: int, chunk_bytes: int) -> None:
        self._view = memoryview(bytearray(byte_count))
        self._chunk_bytes = chunk_bytes

    async def exchange(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answers when all bytes have arrived."""
        filled = 0
        async for data in requests:
            self._view[filled : filled + len(data)] = data
            filled += len(data)
            if filled == len(self._view):
                for start in range(0, filled, self._chunk_bytes):
                    yield bytes(self._view[start : start + self._chunk_bytes])
                filled = 0


async def main() -> None:
    """Serves until standard input closes."""
    server = aio.server(options=OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(Service(int(sys.argv[1]), int(sys.argv[2])).exchange)
    service = grpc.method_handlers_generic_handler("bare.Echo", {"Exchange": handler})
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
