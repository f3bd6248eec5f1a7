"""Trains with torch DistributedDataParallel over gloo and with a session under SYNC, and compares.

    python -m tests.integration.ddp

It needs PyTorch, so it is no test of ``make test``; ``make workers-frameworks`` runs it. Four workers train
the same network on their own batches of the same data, with the same rule, for 50 steps; of DDP each is a
process, of the session a member.
"""

from __future__ import annotations

import datetime
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import optserve
from tests.support.server import running_server

WORKERS, STEPS, BATCH = 4, 50, 16
WIDTHS = 20, 32, 5
TOLERANCE = 1e-6
LIMIT = datetime.timedelta(seconds=120)


@dataclass(frozen=True)
class Case:
    """A rule, as PyTorch and as the session have it.

    Attributes:
        torch_rule: makes PyTorch's optimizer of parameters.
        rule: the session's.
        dtype: of the parameters.
    """

    torch_rule: Callable[[Any], torch.optim.Optimizer]
    rule: optserve.optimizers.Optimizer
    dtype: torch.dtype = torch.float32


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


CASES = {
    "SGD with momentum, float32": Case(
        sgd, optserve.optimizers.Momentum(learning_rate=0.05, convention=optserve.TORCH)
    ),
    "AdamW, float32": Case(adamw, optserve.optimizers.AdamW(learning_rate=1e-3, convention=optserve.TORCH)),
    "AdamW, float64": Case(
        adamw, optserve.optimizers.AdamW(learning_rate=1e-3, convention=optserve.TORCH), torch.float64
    ),
}


def network(dtype: torch.dtype) -> torch.nn.Module:
    """The network that every worker begins with."""
    torch.manual_seed(0)
    first, hidden, last = WIDTHS
    layers = torch.nn.Linear(first, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, last)
    return torch.nn.Sequential(*layers).to(dtype)


def batch(rank: int, step: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples of a worker's step: inputs [16, 20], and labels of 5 classes."""
    rng = np.random.default_rng([rank, step])
    inputs = torch.from_numpy(rng.standard_normal((BATCH, WIDTHS[0]))).to(dtype)
    return inputs, torch.from_numpy(rng.integers(0, WIDTHS[-1], BATCH))


def loss_of(model: Any, rank: int, step: int, dtype: torch.dtype) -> torch.Tensor:
    inputs, labels = batch(rank, step, dtype)
    return torch.nn.functional.cross_entropy(model(inputs), labels)


def run_ddp(name: str, rank: int, port: int, path: str) -> None:
    """One of DDP's processes; the first saves its parameters."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, WORKERS, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS, timeout=LIMIT)
    case = CASES[name]
    model = network(case.dtype)
    optimizer, parallel = case.torch_rule(model.parameters()), DistributedDataParallel(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(parallel, rank, step, case.dtype).backward()
        optimizer.step()
    if rank == 0:
        np.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})
    dist.barrier()
    dist.destroy_process_group()


def train_with_ddp(name: str) -> dict[str, np.ndarray]:
    """The parameters that DDP trains."""
    store = dist.TCPStore("127.0.0.1", 0, WORKERS, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "parameters.npz"))
        processes = [
            context.Process(target=run_ddp, args=(name, rank, store.port, path), daemon=True)
            for rank in range(WORKERS)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(LIMIT.total_seconds())
            assert process.exitcode == 0
        with np.load(path) as saved:
            return dict(saved)


def train_with_session(name: str, address: str) -> dict[str, np.ndarray]:
    """The parameters that four members train."""
    case = CASES[name]
    start = {name: value.numpy() for name, value in network(case.dtype).state_dict().items()}
    with optserve.connect(address) as client:
        coordination = optserve.CoordinationSync(min_replicas=WORKERS)
        session = client.create_session(start, case.rule, coordination=coordination)

        def train(rank: int) -> optserve.Parameters:
            model = network(case.dtype)
            with session.join(f"worker-{rank}") as member:
                values = member.pull()
                for step in range(STEPS):
                    model.load_state_dict({name: torch.tensor(array) for name, array in values.items()})
                    names, parameters = zip(*model.named_parameters(), strict=True)
                    found = torch.autograd.grad(loss_of(model, rank, step, case.dtype), parameters)
                    gradients = {n: g.numpy() for n, g in zip(names, found, strict=True)}
                    values = member.step(gradients).parameters
                return values

        with ThreadPoolExecutor(WORKERS) as pool:
            first, *others = pool.map(train, range(WORKERS))
        for other in others:
            assert all(first[name].tobytes() == other[name].tobytes() for name in first)
        return dict(first)


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest difference of a tensor, relative to its largest element."""
    return max(
        float(np.max(np.abs(found[name] - expected[name])) / np.max(np.abs(expected[name])))
        for name in expected
    )


def main() -> int:
    """Prints how far apart they are; returns 1 if that is too far."""
    torch.set_num_threads(1)
    is_near = True
    with running_server() as server:
        for name in CASES:
            far = distance(train_with_session(name, server.address), train_with_ddp(name))
            print(f"{name}: {far:.1e} after {STEPS} steps of {WORKERS} workers", flush=True)
            is_near = is_near and far <= TOLERANCE
    return int(not is_near)


if __name__ == "__main__":
    sys.exit(main())
