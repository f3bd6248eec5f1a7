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
from tests.performance.contenders.worker import Parameters, serve
from tests.support.server import running_server

DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def main() -> None:
    """Serves until standard input closes."""
    arguments = _parser().parse_args()
    with _address(arguments.at) as address, optserve.connect(address, progress=False) as client:
        optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)
        session = client.create_session({"w": np.zeros(arguments.n, np.float32)}, optimizer)
        with session.stream(pull=True, wire_dtype=DTYPES[arguments.wire]) as stream:

            def step(gradient: Parameters) -> Parameters:
                return stream.step({"w": gradient}).parameters["w"]

            serve(step, arguments.n, DTYPES[arguments.gradient])


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
    parser.add_argument("--at", default="", help="address of a server")
    return parser


if __name__ == "__main__":
    main()
