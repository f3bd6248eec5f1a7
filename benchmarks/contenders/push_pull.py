"""optserve's own bulk methods: PushParameters up, PullParameters down."""

from __future__ import annotations

import sys

import numpy as np

import optserve
from benchmarks.contenders.worker import Parameters, serve
from tests.support.server import running_server


def main() -> None:
    """Serves until standard input closes."""
    n = int(sys.argv[1])
    with running_server("numba") as server, optserve.connect(server.address, progress=False) as client:
        session = client.create_session({"w": np.zeros(n, np.float32)}, optserve.optimizers.SGD())

        def step(values: Parameters) -> Parameters:
            session.push({"w": values})
            return session.pull()["w"]

        serve(step, n)


if __name__ == "__main__":
    main()
