"""Adam's kernel on both CPU executors beside torch's fused one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.optimizers.adam import Adam, BiasCorrection
from optserve_server.sessions.guards import StepPrograms
from optserve_server.sessions.spec import GradientSpec
from tests.performance.results import Result, compared
from tests.performance.timing import interleave

PEER = "torch fused"


def run(sizes: tuple[int, ...], rounds: int) -> Iterator[Result]:
    """Gelem/s of one Adam step on float32 arrays of each size."""
    for n in sizes:
        start = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        gradient = np.random.default_rng(1).standard_normal(n).astype(np.float32)
        contenders = {
            "numba": ours(NumbaBackend(), start, gradient),
            "numpy blocked": ours(NumpyBackend(), start, gradient),
            "torch fused, 1 thread": torchs(1, start, gradient),
            "torch fused, 2 threads": torchs(2, start, gradient),
        }
        seconds = interleave(contenders, rounds, seconds=0.1)
        figures = {name: n / value / 1e9 for name, value in seconds.items()}
        # A peer gets its better thread count.
        figures[PEER] = max(figures.pop(f"torch fused, {count}") for count in ("1 thread", "2 threads"))
        yield from compared("adam kernel", n, "Gelem/s", figures, PEER)


def ours(
    backend: Backend, start: np.ndarray[tuple[int], np.dtype[np.float32]], gradient: np.ndarray
) -> Callable[[], object]:
    """One step of the server's own program."""
    rule = Adam(bias_correction=BiasCorrection.HATTED, epsilon=1e-8)
    program = StepPrograms(rule, GradientSpec(), decays=False, averages=False).apply(scaled=False)
    kernel = backend.compile(program, start.dtype, {"g": gradient.dtype})
    arrays = {"p": start.copy(), "g": gradient, "m": np.zeros_like(start), "v": np.zeros_like(start)}
    scalars = rule.scalars(10, 1e-3)
    needed = {name: scalars[name] for name in program.scalars}
    return lambda: kernel(arrays, needed)


def torchs(threads: int, start: np.ndarray, gradient: np.ndarray) -> Callable[[], object]:
    """One step of torch's fused Adam."""
    parameter = torch.from_numpy(start.copy()).requires_grad_()
    parameter.grad = torch.from_numpy(gradient)
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def step() -> None:
        torch.set_num_threads(threads)
        optimizer.step()

    return step
