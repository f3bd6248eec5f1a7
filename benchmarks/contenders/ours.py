"""optserve: a session of one tensor, stepped by the Python client.

Uses only what the client also had at earlier revisions, because `benchmarks.against` runs it with
the packages of one. The server is one of its own, or the one at an address.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import optserve
from benchmarks.contenders.worker import Parameters, Step, serve
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2
from tests.support.server import running_server

DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
TRANSPORTS = ("grpc", "data", "shared", "in-place")
CALLS = ("stream", "pipelined", "handle", "unary")
MAX_IN_FLIGHT_BYTES = 1 << 28
"""Bound on the gradients of pipelined steps together."""


class FallbackDetector(logging.Handler):
    """Notes when the client falls back to another transport, which it only logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._messages: list[str] = []
        logger = logging.getLogger("optserve")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def check(self) -> None:
        """Raises RuntimeError if a step used another transport than was asked for."""
        if self._messages:
            raise RuntimeError(self._messages[0])


def main() -> None:
    """Serves until standard input closes."""
    arguments = _parser().parse_args()
    detector = FallbackDetector()
    over = arguments.over
    with (
        _address(arguments.at) as address,
        optserve.connect(
            address,
            progress=False,
            data_connections=over != "grpc",
            shared_memory=over in ("shared", "in-place"),
        ) as client,
        contextlib.ExitStack() as stack,
    ):
        session = client.create_session(
            {"w": np.zeros(arguments.n, np.float32)},
            optserve.optimizers.Adam(convention=optserve.TORCH),
            gradient=optserve.Gradient(non_finite=optserve.NonFinitePolicy[arguments.non_finite]),
        )
        drain: Callable[[], Parameters | None] = lambda: None  # noqa: E731
        if arguments.call == "unary":
            step = stack.enter_context(_unary(address, session.name))
        elif arguments.call == "handle":
            step = _pass_gradients(lambda gradient: session.step(gradient, pull=True))
        else:
            window = int(max(2, min(8, MAX_IN_FLIGHT_BYTES // (4 * arguments.n))))
            stream = stack.enter_context(
                session.stream(
                    pull=True, wire_dtype=DTYPES[arguments.wire], window=window, in_place=over == "in-place"
                )
            )
            if arguments.call == "pipelined":
                step, drain = _pipeline(stream, window)
            else:
                step = _in_place(stream) if over == "in-place" else _pass_gradients(stream.step)
        serve(step, arguments.n, DTYPES[arguments.gradient], detector.check, drain)


def _pass_gradients(call: Callable[..., optserve.StepResult]) -> Step:
    """Steps with gradients in the caller's memory."""
    return lambda gradient: call({"w": gradient}).parameters["w"]


def _in_place(stream: optserve.StepStream) -> Step:
    """Steps with gradients that were computed into shared memory; another one is written there first."""
    last: Parameters | None = None

    def step(gradient: Parameters) -> Parameters:
        nonlocal last
        if gradient is not last:
            stream.gradients["w"][...] = gradient
            last = gradient
        return stream.step(stream.gradients).parameters["w"]

    return step


def _pipeline(stream: optserve.StepStream, window: int) -> tuple[Step, Callable[[], Parameters | None]]:
    """Steps of which a window is in flight, and what waits for the last ones."""
    pending: deque[Any] = deque()

    def step(gradient: Parameters) -> Parameters:
        pending.append(stream.submit({"w": gradient}))
        return pending.popleft().result().parameters["w"] if len(pending) == window else gradient

    def drain() -> Parameters | None:
        last = None
        while pending:
            last = pending.popleft().result().parameters["w"]
        return last

    return step, drain


@contextlib.contextmanager
def _unary(address: str, session: str) -> Iterator[Step]:
    """Calls of Step by the generated code, as a client in another language makes them."""
    import grpc  # after optserve, which configures it

    from optserve.v1.session_service_pb2_grpc import SessionServiceStub

    with grpc.insecure_channel(address) as channel:
        stub = SessionServiceStub(channel)

        sequences = itertools.count(1)

        def step(gradient: Parameters) -> Parameters:
            tensor = tensor_pb2.Tensor(
                dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=gradient.shape, data=gradient.tobytes()
            )
            options = wire.StepOptions(worker="w", sequence=next(sequences), pull=wire.PullOptions())
            gradients = [tensor_pb2.NamedTensor(name="w", tensor=tensor)]
            answer = stub.Step(wire.StepRequest(name=session, options=options, gradients=gradients))
            return np.frombuffer(answer.parameters[0].tensor.data, np.float32)

        yield step


@contextlib.contextmanager
def _address(given: str) -> Iterator[str]:
    if given:
        yield given
        return
    with running_server("numba") as server:
        yield server.address


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("--call", choices=CALLS, default="stream", help="how a step is taken")
    parser.add_argument("--wire", choices=DTYPES, default="float32", help="element type of messages")
    parser.add_argument("--gradient", choices=DTYPES, default="float32", help="element type of gradients")
    parser.add_argument(
        "--over",
        choices=TRANSPORTS,
        default="data",
        help="transport; in-place is shared memory in which gradients are computed and parameters are read",
    )
    parser.add_argument(
        "--non-finite", default="REJECT", help="ALLOW applies every gradient as it is, as the peers do"
    )
    parser.add_argument("--at", default="", help="address of a server")
    return parser


if __name__ == "__main__":
    main()
