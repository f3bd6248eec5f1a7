"""Bytes alone over optserve's stream: its client, and its server with kernels that do nothing.

``python -m benchmarks.contenders.chunk_stream N [data|grpc]``
"""

from __future__ import annotations

import sys

import numpy as np

import optserve
from benchmarks.contenders.server import serving
from benchmarks.contenders.ways import DATA, went
from benchmarks.contenders.worker import Parameters, serve


def main() -> None:
    """Serves until standard input closes."""
    n, way = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else DATA
    with (
        serving("idle_server") as port,
        optserve.connect(f"127.0.0.1:{port}", progress=False, data_connections=way == DATA) as client,
    ):
        session = client.create_session({"w": np.zeros(n, np.float32)}, optserve.optimizers.SGD())
        with session.stream(pull=True, shared_memory=False) as stream:

            def step(gradient: Parameters) -> Parameters:
                return stream.step({"w": gradient}).parameters["w"]

            serve(step, n, proof=lambda: went(stream, way))


if __name__ == "__main__":
    main()
