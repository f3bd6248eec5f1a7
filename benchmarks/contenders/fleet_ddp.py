"""torch DistributedDataParallel over gloo: each worker holds the parameters and its optimizer."""

from __future__ import annotations

import argparse
import datetime
import functools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contenders import fleet
from benchmarks.contenders.worker import Parameters

LIMIT = datetime.timedelta(seconds=120)


class Model(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
    """Parameters whose gradient is a given one: the loss is their product."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(n))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self.parameter @ gradient


def make_step(rank: int, arguments: Sequence[str]) -> fleet.Step:
    """A step of a worker: its gradient, the mean of all, and the update."""
    port, size, count = (int(argument) for argument in arguments)
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, count, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=LIMIT)
    gradient = torch.from_numpy(fleet.gradient_of(rank, size))
    model = Model(size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    parallel = DistributedDataParallel(model)

    def step() -> Parameters:
        optimizer.zero_grad()
        parallel(gradient).backward()
        optimizer.step()
        values: Parameters = model.parameter.detach().numpy()
        return values

    return step


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("--workers", type=int, required=True)
    stated = parser.parse_args()
    store = dist.TCPStore("127.0.0.1", 0, stated.workers, is_master=True, wait_for_workers=False)
    arguments = str(store.port), str(stated.size), str(stated.workers)
    with fleet.workers_of(make_step, stated.workers, arguments) as workers:
        fleet.serve(
            functools.partial(fleet.time_together, workers), functools.partial(fleet.take_steps, workers)
        )


if __name__ == "__main__":
    main()
