"""Bytes alone over optserve's codec, by the client's own functions."""

from __future__ import annotations

import queue
import sys
from itertools import chain
from typing import Any

import grpc
import numpy as np

from optserve.chunks import Joined, cut
from optserve.framing import Framed, Framing
from optserve.v1 import session_service_pb2 as pb
from tests.performance.contenders.chunk_stream_server import METHOD
from tests.performance.contenders.server import serving
from tests.performance.contenders.worker import Parameters, serve


def main() -> None:
    """Serves until standard input closes."""
    n = int(sys.argv[1])
    outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serving("chunk_stream_server", 4 * n) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(
            METHOD,
            request_serializer=Framing(pb.StepStreamRequest).encode,
            response_deserializer=Framing(pb.StepStreamResponse).decode,
        )
        answers = call(chain.from_iterable(iter(outbox.get, None)))

        def step(gradient: Parameters) -> Parameters:
            views = [gradient.view(np.uint8).data]
            outbox.put(Framed(pb.StepStreamRequest(), chunk) for chunk in cut(views, lambda size: None))
            joined = Joined(4 * n)
            while not joined.whole:
                joined.add(next(answers).chunk)
            return joined.buffer.view(np.float32)

        serve(step, n)
        outbox.put(None)


if __name__ == "__main__":
    main()
