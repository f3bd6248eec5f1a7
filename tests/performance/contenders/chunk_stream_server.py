"""Bytes alone over optserve's codec: received into one buffer, and sent back from it.

``python -m tests.performance.contenders.chunk_stream_server BYTES``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
from grpc import aio

from optserve.framing import Framed, Framing
from optserve.v1 import session_service_pb2 as pb
from optserve_server.wire.chunks import Filler, cut

METHOD = "/bare.Chunks/Exchange"
CHUNK_BYTES = 1 << 20


class Service:
    """One buffer, which every exchange fills again."""

    def __init__(self, byte_count: int) -> None:
        self._buffer = np.empty(byte_count, np.uint8)

    async def exchange(
        self, requests: AsyncIterator[Framed[Any]], context: Any
    ) -> AsyncIterator[Framed[Any]]:
        """Answers once all bytes are there."""
        filler = Filler(self._buffer)
        async for framed in requests:
            filler.add(framed.chunk)
            if filler.whole:
                for chunk in cut(self._buffer, CHUNK_BYTES):
                    yield Framed(pb.StepStreamResponse(), chunk)
                filler = Filler(self._buffer)


async def main() -> None:
    """Serves until standard input closes."""
    server = aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        Service(int(sys.argv[1])).exchange,
        request_deserializer=Framing(pb.StepStreamRequest).decode,
        response_serializer=Framing(pb.StepStreamResponse).encode,
    )
    service = grpc.method_handlers_generic_handler("bare.Chunks", {"Exchange": handler})
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
