"""What the workers contribute, and how they are named."""

from __future__ import annotations

import numpy as np

from chaos.model import Arrays

VALUES: Arrays = {"w": np.linspace(-1, 1, 200, dtype=np.float32), "b": np.linspace(0, 1, 7)}
"""The parameters at the beginning."""


def worker_name(number: int) -> str:
    """The name of a worker."""
    return f"worker-{number}"


def gradient(worker: str, epoch: int, number: int) -> Arrays:
    """The gradient that a worker contributes as its ``number``-th in an epoch; no two are alike."""
    rng = np.random.default_rng([int(worker.rpartition("-")[2]), epoch, number])
    return {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in VALUES.items()}
