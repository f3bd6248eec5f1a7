"""Opens a snapshot in PyTorch, JAX and NumPy through the safetensors library, and compares the bits.

    python -m tests.recovery.frameworks

It needs the frameworks, so it is no test of ``make test``; ``make snapshot-frameworks`` runs it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.flax
import safetensors.numpy
import safetensors.torch

import optserve
from tests.support.server import running_server

VALUES = {
    "dense/kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    "dense/bias": np.zeros(3, np.float32),
}


def main() -> int:
    """Prints what each framework found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        values = export(path)
        found: dict[str, Mapping[str, Any]] = {
            "NumPy": safetensors.numpy.load_file(path),
            "PyTorch": {k: v.numpy() for k, v in safetensors.torch.load_file(path).items()},
            "JAX": {k: np.asarray(v) for k, v in safetensors.flax.load_file(path).items()},
        }
    for framework, tensors in found.items():
        for name, value in values.items():
            assert tensors[f"parameter/{name}"].tobytes() == value.tobytes()
            assert tensors[f"slot/m/{name}"].shape == value.shape
        print(f"{framework}: {', '.join(sorted(tensors))}")
    return 0


def export(path: Path) -> Mapping[str, np.ndarray]:
    """Writes a session of two steps; returns its parameters."""
    with (
        tempfile.TemporaryDirectory() as root,
        running_server("numpy", data_dir=root) as server,
        optserve.connect(server.address) as client,
    ):
        session = client.create_session(VALUES, optserve.optimizers.Adam())
        for _ in range(2):
            session.step({name: np.ones_like(value) for name, value in VALUES.items()})
        session.snapshots.export(path, session.snapshots.create().step)
        return {name: np.array(value) for name, value in session.pull().items()}


if __name__ == "__main__":
    sys.exit(main())
