"""A bare aio server that answers each message of a stream with the same bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

METHOD = "/bare.Echo/Exchange"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]


async def exchange(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Echoes."""
    async for message in requests:
        yield message


async def main() -> None:
    """Serves until standard input closes."""
    server = aio.server(options=OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(exchange)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("bare.Echo", {"Exchange": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
