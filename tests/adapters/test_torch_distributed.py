"""`optserve.torch.RemoteOptimizer` in several processes, or in several workers of a session."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import optserve
from optserve import optimizers as rules
from optserve.torch import RemoteOptimizer

pytestmark = pytest.mark.filterwarnings("default")

LIMIT = datetime.timedelta(seconds=120)
WORKERS = 2


def make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def batch_loss(model, rank: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    x = torch.randn(8, 64, generator=generator)
    return F.cross_entropy(model(x), torch.randint(0, 10, (8,), generator=generator))


def run_rank(rank: int, port: int, path: str, address: str | None) -> None:
    """One process of DistributedDataParallel, with an optimizer of a server or of PyTorch."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, WORKERS, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS, timeout=LIMIT)
    model = DistributedDataParallel(make_network())
    if address is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    else:
        optimizer = RemoteOptimizer(
            model.parameters(),
            rules.AdamW(learning_rate=1e-3),
            server=address,
            process_group=dist.group.WORLD,
        )
    for step in range(10):
        optimizer.zero_grad()
        batch_loss(model, rank, step).backward()
        optimizer.step()
    torch.save(model.module.state_dict(), f"{path}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


def train_in_processes(address: str | None) -> list[dict[str, torch.Tensor]]:
    """The parameters of each rank."""
    store = dist.TCPStore("127.0.0.1", 0, WORKERS, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=run_rank, args=(rank, store.port, folder, address), daemon=True)
            for rank in range(WORKERS)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(LIMIT.total_seconds())
            assert process.exitcode == 0
        return [torch.load(f"{folder}/{rank}", weights_only=True) for rank in range(WORKERS)]


def test_rank_0_of_distributed_data_parallel_steps(address):
    first, second = train_in_processes(address)
    expected, _ = train_in_processes(None)
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6)


def test_every_process_is_a_worker_of_a_synchronous_session(address):
    steps = 10

    def work(rank: int) -> torch.nn.Module:
        model = models[rank]
        optimizer = RemoteOptimizer(
            model.named_parameters(),
            rules.AdamW(learning_rate=1e-3),
            server=address,
            session_id="synchronous",
            worker=f"worker-{rank}",
            coordination=optserve.CoordinationSync(min_replicas=WORKERS),
        )
        for step in range(steps):
            optimizer.zero_grad()
            batch_loss(model, rank, step).backward()
            optimizer.step()
        return model

    models = [make_network() for _ in range(WORKERS)]
    local = make_network()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    expected = torch.optim.AdamW(local.parameters(), lr=1e-3)
    for step in range(steps):
        expected.zero_grad()
        (sum(batch_loss(local, rank, step) for rank in range(WORKERS)) / WORKERS).backward()
        expected.step()
    for found, other, value in zip(*(m.parameters() for m in (*models, local)), strict=True):
        assert torch.equal(found, other)
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6)
