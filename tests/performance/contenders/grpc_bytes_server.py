"""Bytes alone over bare gRPC: received into one buffer, and sent back from it.

``python -m tests.performance.contenders.grpc_bytes_server BYTES``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

METHOD = "/bare.Bytes/Exchange"
CHUNK_BYTES = 1 << 20


class Service:
    """One buffer, which every exchange fills again."""

    def __init__(self, byte_count: int) -> None:
        self._view = memoryview(bytearray(byte_count))

    async def exchange(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answers once all bytes are there."""
        filled = 0
        async for data in requests:
            self._view[filled : filled + len(data)] = data
            filled += len(data)
            if filled == len(self._view):
                for start in range(0, filled, CHUNK_BYTES):
                    yield bytes(self._view[start : start + CHUNK_BYTES])
                filled = 0


async def main() -> None:
    """Serves until standard input closes."""
    server = aio.server()
    handler = grpc.stream_stream_rpc_method_handler(Service(int(sys.argv[1])).exchange)
    service = grpc.method_handlers_generic_handler("bare.Bytes", {"Exchange": handler})
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
