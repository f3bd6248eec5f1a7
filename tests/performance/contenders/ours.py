"""optserve: a session of one tensor on a server of its own, stepped by the Python client.

``python -m tests.performance.contenders.ours N [WIRE [GRADIENT]]`` with element types by
name, float32 where none is given.
"""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import numpy.typing as npt

import optserve
from tests.performance.contenders.worker import Parameters, serve
from tests.support.server import running_server

DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def main() -> None:
    """Serves until standard input closes."""
    n, wire, given = [*sys.argv[1:], "float32", "float32"][:3]
    with running_server("numba") as server, optserve.connect(server.address, progress=False) as client:
        optimizer = optserve.optimizers.Adam(convention=optserve.TORCH)
        session = client.create_session({"w": np.zeros(int(n), np.float32)}, optimizer)
        with session.stream(pull=True, wire_dtype=DTYPES[wire]) as stream:

            def step(gradient: Parameters) -> Parameters:
                return stream.step({"w": gradient}).parameters["w"]

            serve(step, int(n), DTYPES[given])


if __name__ == "__main__":
    main()
