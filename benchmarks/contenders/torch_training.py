"""A training step of PyTorch: forward, backward and the optimizer, which is one of torch or on a server."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import optserve
from benchmarks.contenders.ours import FallbackDetector
from benchmarks.contenders.worker import Parameters, serve
from optserve.torch import RemoteOptimizer
from tests.support.server import running_server

LAYERS = 10
BATCH = 64
OPTIMIZERS = ("remote", "fused", "foreach", "deepspeed")


class Training:
    """A network of `LAYERS` square layers, and the step that trains it.

    Args:
        n: about how many parameters there are.
        optimizer: one of `OPTIMIZERS`.
        address: of the server; empty if the optimizer needs none.
        is_whole: whether a call computes the gradients, and not the optimizer's step alone.
    """

    def __init__(self, n: int, optimizer: str, address: str, *, is_whole: bool) -> None:
        torch.manual_seed(0)
        width = round(math.sqrt(n / LAYERS))
        layers = [(torch.nn.Linear(width, width), torch.nn.ReLU()) for _ in range(LAYERS)]
        self._model = torch.nn.Sequential(*(part for pair in layers for part in pair))
        self._inputs, self._targets = torch.randn(2, BATCH, width).unbind()
        self._optimizer = _make_optimizer(optimizer, self._model, address)
        self._is_whole = is_whole
        if not is_whole:
            self._compute_gradients()

    def step(self, _: object) -> Training:
        """Takes a step; as an array, this has the parameters after it."""
        if self._is_whole:
            self._optimizer.zero_grad()
            self._compute_gradients()
        self._optimizer.step()
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Parameters:
        flat = torch.cat([p.detach().flatten() for p in self._model.parameters()])
        return np.asarray(flat.numpy(), dtype)

    def _compute_gradients(self) -> None:
        torch.nn.functional.mse_loss(self._model(self._inputs), self._targets).backward()


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, required=True)
    parser.add_argument("--alone", action="store_true", help="the optimizer's step alone")
    arguments = parser.parse_args()
    detector = FallbackDetector()
    with _find_address(arguments.optimizer) as address:
        training = Training(arguments.n, arguments.optimizer, address, is_whole=not arguments.alone)
        serve(training.step, 1, check=detector.check)  # type: ignore[arg-type]


@contextlib.contextmanager
def _find_address(optimizer: str) -> Iterator[str]:
    if optimizer != "remote":
        yield ""
        return
    with running_server("numba") as server:
        yield server.address


@contextlib.contextmanager
def _answers_kept_apart() -> Iterator[None]:
    """Sends standard output to standard error meanwhile: DeepSpeed and its compiler print there."""
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)


def _make_optimizer(name: str, model: torch.nn.Module, address: str) -> Any:
    if name == "remote":
        rule = optserve.optimizers.AdamW(learning_rate=1e-3)
        return RemoteOptimizer(model.named_parameters(), rule, server=address)
    if name == "deepspeed":
        with _answers_kept_apart():
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(model.parameters(), lr=1e-3, weight_decay=1e-2, adamw_mode=True)
    return torch.optim.AdamW(model.parameters(), lr=1e-3, **{name: True})


if __name__ == "__main__":
    main()
