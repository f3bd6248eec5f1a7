"""Bytes alone over bare gRPC, in chunks of 1 MiB, with a synchronous client."""

from __future__ import annotations

import queue
import sys
from itertools import chain
from typing import Any

import grpc
import numpy as np

from tests.performance.contenders.grpc_bytes_server import CHUNK_BYTES, METHOD
from tests.performance.contenders.server import serving
from tests.performance.contenders.worker import Parameters, serve


def main() -> None:
    """Serves until standard input closes."""
    n = int(sys.argv[1])
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    received = np.empty(4 * n, np.uint8)
    with serving("grpc_bytes_server", 4 * n) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answers = channel.stream_stream(METHOD)(chain.from_iterable(iter(outbox.get, None)))

        def step(gradient: Parameters) -> Parameters:
            data = gradient.view(np.uint8)
            outbox.put(data[start : start + CHUNK_BYTES].tobytes() for start in range(0, 4 * n, CHUNK_BYTES))
            for start in range(0, 4 * n, CHUNK_BYTES):
                received[start : start + CHUNK_BYTES] = np.frombuffer(next(answers), np.uint8)
            return received.view(np.float32)

        serve(step, n)
        outbox.put(None)


if __name__ == "__main__":
    main()
