"""A synchronous parameter server as Ray's documentation has it: an actor, and an actor of each worker."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.contenders import fleet
from benchmarks.contenders.worker import Parameters


@ray.remote
class ParameterServer:
    """Parameters under torch's fused Adam."""

    def __init__(self, n: int) -> None:
        # Where the actor runs, the repository is on the path.
        from benchmarks.contenders.torch_adam import TorchAdam

        torch.set_num_threads(1)
        self._model = TorchAdam(n)

    def step(self, *gradients: Any) -> Any:
        """The parameters after one step of the mean of gradients."""
        total = np.sum(gradients, axis=0)
        total /= len(gradients)
        return self._model.step(torch.from_numpy(total)).numpy()


@ray.remote
class Worker:
    """A worker that computes a gradient of the parameters that it is given."""

    def __init__(self, rank: int, n: int) -> None:
        from benchmarks.contenders.fleet import gradient_of

        self._gradient = gradient_of(rank, n)

    def compute(self, parameters: Any) -> Any:
        """A gradient."""
        return self._gradient


class Fleet:
    """Workers and their server.

    Args:
        n: number of parameters.
        count: number of workers.
    """

    def __init__(self, n: int, count: int) -> None:
        server: Any = ParameterServer
        worker: Any = Worker
        self._server = server.options(num_cpus=0).remote(n)
        self._workers = [worker.options(num_cpus=0).remote(rank, n) for rank in range(count)]
        self._parameters = ray.put(np.zeros(n, np.float32))

    def take(self, steps: int) -> Parameters:
        """The parameters after a number of steps."""
        for _ in range(steps):
            gradients = [worker.compute.remote(self._parameters) for worker in self._workers]
            self._parameters = self._server.step.remote(*gradients)
            values: Parameters = np.asarray(ray.get(self._parameters))
        return values

    def time_steps(self, repeats: int) -> float:
        """The seconds of a number of steps, after some that do not count."""
        self.take(max(1, round(fleet.WARM_UP_SHARE * repeats)))
        begun = time.perf_counter()
        self.take(repeats)
        return time.perf_counter() - begun


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("--workers", type=int, required=True)
    stated = parser.parse_args()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=max(512 << 20, 400 * stated.size),
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}},
    )
    try:
        made = Fleet(stated.size, stated.workers)
        fleet.serve(made.time_steps, made.take)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
