"""Measures steps, and exchanges of the same bytes by generated code alone."""

from __future__ import annotations

import queue
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from stubs import driver_pb2 as pb
from stubs import echo_service_pb2 as echo

import optserve

Once = Callable[[], None]
"""Takes one step, or makes one exchange."""

METHOD = "/optserve.conformance.v1.EchoService/Exchange"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Timer:
    """What was made for earlier calls is used again by later ones."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Once] = {}

    def time(self, call: pb.TimeCall) -> pb.DriverResponse:
        """Measures one way."""
        if call.way not in WAYS:
            return pb.DriverResponse(unsupported=f"way {call.way}")
        key = call.elements, call.way, call.target, call.chunk_bytes
        if key not in self._made:
            self._made[key] = WAYS[call.way](call)
            self._made[key]()  # connects, and has the server prepare its kernels
        once = self._made[key]
        begun = time.perf_counter()
        for _ in range(call.repeats):
            once()
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
        return pb.DriverResponse(time=pb.TimeAnswer(seconds=seconds, peak_bytes=peak))


def steps(call: pb.TimeCall) -> Once:
    """A step of a new session: a stream over gRPC or a data connection, or the handle over gRPC."""
    over_data = call.way == pb.WAY_DATA_CONNECTION
    client = optserve.connect(call.target, progress=False, shared_memory=False, data_connections=over_data)
    gradient = np.full(call.elements, 0.5, np.float32)
    w = np.zeros(call.elements, np.float32)
    session = client.create_session({"w": w}, optserve.optimizers.Adam(learning_rate=0.001))
    taker = session if call.way == pb.WAY_HANDLE else session.stream(pull=True, window=1)
    options: dict[str, Any] = {"pull": True} if call.way == pb.WAY_HANDLE else {}

    def once() -> None:
        taker.step({"w": gradient}, into={"w": w}, **options)

    return once


class Exchange:
    """Exchanges of as many bytes as a step has."""

    def __init__(self, call: pb.TimeCall) -> None:
        self._byte_count, self._chunk = 4 * call.elements, call.chunk_bytes
        self._sent = np.full(self._byte_count, 1, np.uint8).data
        self._received = bytearray(self._byte_count)
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(call.target, options=OPTIONS)
        method: Any = self._channel.stream_stream(
            METHOD,
            request_serializer=echo.ExchangeRequest.SerializeToString,
            response_deserializer=echo.ExchangeResponse.FromString,
        )
        self._answers = method(self._requests())

    def __call__(self) -> None:
        self._turns.put(None)
        filled = 0
        while filled < self._byte_count:
            data = next(self._answers).data
            self._received[filled : filled + len(data)] = data
            filled += len(data)

    def _requests(self) -> Iterator[echo.ExchangeRequest]:
        yield echo.ExchangeRequest(byte_count=self._byte_count)
        while True:
            self._turns.get()
            for start in range(0, self._byte_count, self._chunk):
                yield echo.ExchangeRequest(data=bytes(self._sent[start : start + self._chunk]))


WAYS: dict[int, Callable[[pb.TimeCall], Once]] = {
    pb.WAY_STREAM: steps,
    pb.WAY_DATA_CONNECTION: steps,
    pb.WAY_HANDLE: steps,
    pb.WAY_ECHO: Exchange,
}
