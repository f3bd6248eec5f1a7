"""Bytes alone over bare gRPC, by its public API, in chunks: a client as optserve's is, synchronous.

``python -m benchmarks.contenders.echo N [CHUNK_BYTES]``; chunks of 1 MiB if none are given.
"""

from __future__ import annotations

import queue
import sys
from itertools import chain
from typing import Any

import grpc
import numpy as np

from benchmarks.contenders.echo_server import METHOD, OPTIONS
from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, serve


def main() -> None:
    """Serves until standard input closes."""
    n, size = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 20
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    received = np.empty(4 * n, np.uint8)
    with (
        serving("echo_server", 4 * n, size) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel,
    ):
        answers: Any = channel.stream_stream(METHOD)(chain.from_iterable(iter(outbox.get, None)))

        def step(gradient: Parameters) -> Parameters:
            data = gradient.view(np.uint8)
            outbox.put(data[start : start + size].tobytes() for start in range(0, 4 * n, size))
            for start in range(0, 4 * n, size):
                received[start : start + size] = np.frombuffer(next(answers), np.uint8)
            return received.view(np.float32)

        serve(step, n)
        outbox.put(None)


if __name__ == "__main__":
    main()
