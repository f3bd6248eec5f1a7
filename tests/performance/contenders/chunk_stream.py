"""Bytes alone over optserve's stream: its client, and its server with kernels that do nothing."""

from __future__ import annotations

import sys

import numpy as np

import optserve
from tests.performance.contenders.server import serving
from tests.performance.contenders.worker import Parameters, serve


def main() -> None:
    """Serves until standard input closes."""
    n = int(sys.argv[1])
    with serving("idle_server") as port, optserve.connect(f"127.0.0.1:{port}", progress=False) as client:
        session = client.create_session({"w": np.zeros(n, np.float32)}, optserve.optimizers.Sgd())
        with session.stream(pull=True, shared_memory=False) as stream:

            def step(gradient: Parameters) -> Parameters:
                return stream.step({"w": gradient}).parameters["w"]

            serve(step, n)


if __name__ == "__main__":
    main()
