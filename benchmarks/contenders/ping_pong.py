"""One message of N float32 up and one down on an open stream of bare gRPC.

``python -m benchmarks.contenders.ping_pong N sync|aio``: with a synchronous client,
as optserve's is, or an asyncio one.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from grpc import aio

from benchmarks.contenders.ping_pong_server import METHOD, OPTIONS
from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, serve


def synchronous(address: str, n: int) -> None:
    """With the synchronous client."""
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        exchange: Any = channel.stream_stream(METHOD)
        answers: Iterator[bytes] = iter(exchange(iter(outbox.get, None)))

        def step(gradient: Parameters) -> Parameters:
            outbox.put(gradient.tobytes())
            return np.frombuffer(next(answers), np.float32)

        serve(step, n)
        outbox.put(None)


def asynchronous(address: str, n: int) -> None:
    """With the asyncio client; each step enters the loop once, and a batch of them stays in it."""
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(_channel(address))
    call: Any = channel.stream_stream(METHOD)()

    async def exchange(data: bytes) -> bytes:
        await call.write(data)
        answer: bytes = await call.read()
        return answer

    def step(gradient: Parameters) -> Parameters:
        return np.frombuffer(loop.run_until_complete(exchange(gradient.tobytes())), np.float32)

    serve(step, n)
    call.cancel()
    loop.run_until_complete(channel.close())


async def _channel(address: str) -> aio.Channel:
    return aio.insecure_channel(address, options=OPTIONS)


def main() -> None:
    """Serves until standard input closes."""
    with serving("ping_pong_server") as port:
        client = synchronous if sys.argv[2] == "sync" else asynchronous
        client(f"127.0.0.1:{port}", int(sys.argv[1]))


if __name__ == "__main__":
    main()
