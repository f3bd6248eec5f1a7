"""optserve: a session of one tensor, stepped by the Python client on an open stream.

The server is one of its own, or the one at an address.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import numpy.typing as npt

import optserve
from benchmarks.contenders.ways import DATA, WAYS, went
from benchmarks.contenders.worker import Parameters, Step, serve
from tests.support.server import running_server

DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def main() -> None:
    """Serves until standard input closes."""
    arguments = _parser().parse_args()
    with (
        _address(arguments.at) as address,
        optserve.connect(address, progress=False, data_connections=arguments.over == DATA) as client,
    ):
        in_place = arguments.memory == "in-place"
        optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)
        session = client.create_session(
            {"w": np.zeros(arguments.n, np.float32)},
            optimizer,
            gradient=optserve.Gradient(non_finite=optserve.NonFinitePolicy[arguments.non_finite]),
        )
        with session.stream(
            pull=True,
            wire_dtype=DTYPES[arguments.wire],
            shared_memory=arguments.memory != "own",
            in_place=in_place,
        ) as stream:
            step = _in_place(stream) if in_place else _step_in_place(stream)
            serve(step, arguments.n, DTYPES[arguments.gradient], lambda: went(stream, arguments.over))


def _step_in_place(stream: optserve.StepStream) -> Step:
    """Steps on gradients that lie in the caller's memory."""
    return lambda gradient: stream.step({"w": gradient}).parameters["w"]


def _in_place(stream: optserve.StepStream) -> Step:
    """Steps on gradients that were made where they are used: another one is written there first."""
    last: Parameters | None = None

    def step(gradient: Parameters) -> Parameters:
        nonlocal last
        if gradient is not last:
            stream.gradients["w"][...] = gradient
            last = gradient
        return stream.step(stream.gradients).parameters["w"]

    return step


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
    parser.add_argument("--wire", choices=DTYPES, default="float32", help="element type on the wire")
    parser.add_argument("--gradient", choices=DTYPES, default="float32", help="element type of what is given")
    parser.add_argument(
        "--memory",
        choices=("own", "shared", "in-place"),
        default="own",
        help="where gradients and parameters lie: in the client's memory, from which they are sent or"
        " copied to shared memory; or in shared memory from the beginning",
    )
    parser.add_argument(
        "--non-finite", default="REJECT", help="ALLOW applies every gradient as it is, as the peers do"
    )
    parser.add_argument(
        "--over", choices=WAYS, default=DATA, help="what carries messages; it ends where they went otherwise"
    )
    parser.add_argument("--at", default="", help="address of a server")
    return parser


if __name__ == "__main__":
    main()
