"""A Ray actor that holds the parameters, as a parameter server is written with Ray."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.contenders.worker import Parameters, serve


@ray.remote
class ParameterServer:
    """Parameters under torch's fused Adam."""

    def __init__(self, n: int) -> None:
        # Where the actor runs, the repository is on the path.
        from benchmarks.contenders.torch_adam import TorchAdam

        self._model = TorchAdam(n)

    def step(self, gradient: Any) -> Any:
        """The parameters after one step; Ray shares both arrays through its object store."""
        return self._model.step(torch.from_numpy(gradient)).numpy()


def main() -> None:
    """Serves until standard input closes."""
    n = int(sys.argv[1])
    threads = os.environ["OMP_NUM_THREADS"]
    environment = {"env_vars": {"OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"}}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=max(256 << 20, 40 * n),
        runtime_env=environment,
    )
    actor: Any = ParameterServer
    server = actor.remote(n)

    def step(gradient: Parameters) -> Parameters:
        values: Parameters = ray.get(server.step.remote(gradient))
        return np.asarray(values)

    try:
        serve(step, n)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
