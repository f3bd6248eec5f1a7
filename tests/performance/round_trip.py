"""A whole step, gradient up and parameters down, beside the naive server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

import optserve
from optserve.v1 import session_service_pb2 as pb
from tests.performance import naive_server
from tests.performance.results import Result, compared
from tests.performance.timing import interleave
from tests.support.server import running_server

PEER = "naive gRPC + NumPy"
Parameters = npt.NDArray[np.float32]


def run(sizes: tuple[int, ...], rounds: int) -> Iterator[Result]:
    """Steps per second of float32 Adam, all servers running side by side.

    Raises:
        AssertionError: the servers disagree about the parameters.
    """
    for n in sizes:
        gradient = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        with contextlib.ExitStack() as stack:
            contenders = {
                "stream": stack.enter_context(ours(n, gradient)),
                PEER: stack.enter_context(naive(n, gradient)),
            }
            answers = [contenders[name]() for name in contenders]
            np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5)
            seconds = interleave(contenders, rounds, seconds=0.5)
        figures = {name: 1 / value for name, value in seconds.items()}
        yield from compared("round trip", n, "steps/s", figures, PEER)


@contextlib.contextmanager
def ours(n: int, gradient: Parameters) -> Iterator[Callable[[], Parameters]]:
    """One step on an open stream of a real server."""
    with running_server("numba") as server, optserve.connect(server.address) as client:
        optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)
        session = client.create_session({"w": np.zeros(n, np.float32)}, optimizer)
        with session.stream(pull=True) as stream:
            yield lambda: stream.step({"w": gradient}).parameters["w"]


@contextlib.contextmanager
def naive(n: int, gradient: Parameters) -> Iterator[Callable[[], Parameters]]:
    """One unary call of the naive server."""
    command = [sys.executable, "-m", "tests.performance.naive_server", str(n)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        channel = grpc.insecure_channel(
            f"127.0.0.1:{int(process.stdout.readline())}", options=naive_server.OPTIONS
        )
        call: Any = channel.unary_unary(
            naive_server.METHOD,
            request_serializer=pb.StepRequest.SerializeToString,
            response_deserializer=pb.StepResponse.FromString,
        )

        def step() -> Parameters:
            response = call(pb.StepRequest(gradients=[naive_server.message(gradient)]))
            return np.frombuffer(response.parameters[0].tensor.data, np.float32)

        # Leaving closes the process's standard input, which ends it.
        with channel:
            yield step
