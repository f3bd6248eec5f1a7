"""torch.distributed over gloo: the gradient is sent to the other process, parameters are returned."""

from __future__ import annotations

import datetime
import subprocess
import sys

import torch
import torch.distributed as dist

from benchmarks.contenders.torch_adam import TorchAdam
from benchmarks.contenders.worker import Parameters, serve

LIMIT = datetime.timedelta(seconds=120)


def join(port: int, rank: int) -> int:
    """Makes the group of two, and gives the port of its store."""
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, wait_for_workers=False)
    if rank == 0:
        _Peer.process = subprocess.Popen([sys.executable, "-m", __spec__.name, sys.argv[1], str(store.port)])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=LIMIT)
    return int(store.port)


class _Peer:
    process: subprocess.Popen[bytes]


def serve_steps(n: int) -> None:
    """The server: until the client leaves."""
    model, gradient = TorchAdam(n), torch.empty(n)
    while True:
        try:
            dist.recv(gradient, src=0)
        except RuntimeError:
            return
        dist.send(model.step(gradient), dst=0)


def main() -> None:
    """The client; the server where a port is given."""
    n = int(sys.argv[1])
    if len(sys.argv) > 2:
        join(int(sys.argv[2]), 1)
        serve_steps(n)
        return
    join(0, 0)
    values = torch.empty(n)

    def step(gradient: Parameters) -> Parameters:
        dist.send(torch.from_numpy(gradient), dst=1)
        dist.recv(values, src=1)
        received: Parameters = values.numpy()
        return received

    try:
        serve(step, n)
    finally:
        _Peer.process.terminate()
        _Peer.process.wait(10)


if __name__ == "__main__":
    main()
