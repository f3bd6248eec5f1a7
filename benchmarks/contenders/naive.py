"""A client of the naive server: unary calls of the generated code.

``python -m benchmarks.contenders.naive N [PORT MODEL]``
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import numpy as np

from benchmarks.contenders import naive_server
from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, Step, serve
from optserve.v1 import session_service_pb2 as pb


def connect(port: int) -> grpc.Channel:
    """A channel to the server."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=naive_server.OPTIONS)


def step_of(channel: grpc.Channel, name: str) -> Step:
    """A step of the model ``name``."""
    call: Any = channel.unary_unary(
        naive_server.METHOD,
        request_serializer=pb.StepRequest.SerializeToString,
        response_deserializer=pb.StepResponse.FromString,
    )

    def step(gradient: Parameters) -> Parameters:
        response = call(pb.StepRequest(name=name, gradients=[naive_server.message(gradient)]))
        return np.frombuffer(response.parameters[0].tensor.data, np.float32)

    return step


def main() -> None:
    """Serves until standard input closes; at the port and by the model's name that are given, if any."""
    n = int(sys.argv[1])
    if len(sys.argv) > 2:
        with connect(int(sys.argv[2])) as channel:
            serve(step_of(channel, sys.argv[3]), n)
        return
    with serving("naive_server", n, 1) as port, connect(port) as channel:
        serve(step_of(channel, "0"), n)


if __name__ == "__main__":
    main()
