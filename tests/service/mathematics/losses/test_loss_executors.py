"""Element-wise losses as traced programs, on every executor that needs no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.arrays.trace import Tracer
from optserve_server.losses import REGISTRY
from optserve_server.losses.elementwise import ElementwiseLoss
from tests.service.arrays.programs import APPROXIMATE
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx
from tests.support.tiers import slow_unless

EVERY = [cls() for cls in REGISTRY.values() if issubclass(cls, ElementwiseLoss)]
UNITS = 8
"""Of the last place, at the magnitude of the result: logarithms and quotients of exponentials add up."""


def trace_loss(loss: ElementwiseLoss) -> Program:
    t = Tracer()
    p, y = t.load("p"), t.load("y")
    t.store("value", loss.value(t, p, y))
    t.store("slope", loss.derivative(t, p, y))
    return t.build_program()


def inputs(program: Program, dtype: type) -> dict[str, np.ndarray]:
    """Probabilities, which every loss takes; certain targets among doubtful ones."""
    rng = np.random.default_rng(5)
    arrays = {name: rng.uniform(0.01, 0.99, 999).astype(dtype) for name in program.arrays}
    arrays["y"][::2] = rng.choice([0, 1], 500)
    return arrays


@pytest.mark.parametrize("dtype", slow_unless(lambda dtype: dtype is np.float32, [np.float32, np.float64]))
@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_executors_agree(loss: Any, dtype: type) -> None:
    program = trace_loss(loss)
    exact = not {k.op for k in program.instructions} & set(APPROXIMATE)
    answers = []
    for compile_ in (NumpyBackend(1).compile, NumbaBackend(1).compile, HostKernel):
        arrays = inputs(program, dtype)
        compile_(program, np.dtype(dtype), {})(arrays, {})
        answers.append(arrays)
    expected = answers[0]
    for found in answers[1:]:
        for name in program.arrays:
            if exact:
                assert np.array_equal(found[name], expected[name])
            else:
                unit = np.finfo(dtype).eps * np.maximum(1, np.abs(expected[name]))
                assert (np.abs(found[name] - expected[name]) <= UNITS * unit).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_cuda_compiles(loss: Any, dtype: type) -> None:
    program = trace_loss(loss)
    source = cuda_source(program, np.dtype(dtype), storage_dtypes(program, np.dtype(dtype), {}))
    assert ".entry kernel" in compile_ptx(source, OPTIONS)
