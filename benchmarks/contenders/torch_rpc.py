"""torch.distributed.rpc: a remote call with the gradient, answered by the parameters."""

from __future__ import annotations

import socket
import subprocess
import sys

import torch
from torch.distributed import rpc

from benchmarks.contenders.torch_adam import TorchAdam
from benchmarks.contenders.worker import Parameters, serve

MODULE = "benchmarks.contenders.torch_rpc"
_models: list[TorchAdam] = []


def remote_step(gradient: torch.Tensor) -> torch.Tensor:
    """Called on the server; makes its model with the first call."""
    if not _models:
        _models.append(TorchAdam(len(gradient)))
    values: torch.Tensor = _models[0].step(gradient)
    return values


def join(name: str, rank: int, port: int) -> None:
    """Makes the pair."""
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://127.0.0.1:{port}", rpc_timeout=120)
    rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)


def main() -> None:
    """The client; the server where a port is given."""
    n = int(sys.argv[1])
    if len(sys.argv) > 2:
        join("server", 1, int(sys.argv[2]))
        rpc.shutdown()  # waits for the client's
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", MODULE, str(n), str(port)])
    join("client", 0, port)
    # By the module's name, as the server knows it: here it is __main__.
    from benchmarks.contenders.torch_rpc import remote_step as function

    def step(gradient: Parameters) -> Parameters:
        values: Parameters = rpc.rpc_sync("server", function, args=(torch.from_numpy(gradient),)).numpy()
        return values

    try:
        serve(step, n)
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
