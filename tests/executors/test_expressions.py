"""Callers' formulas as CUDA: NVRTC compiles them, and the host computes what NumPy does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.kernel import Kernel
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.losses.formula.custom_programs import compile_programs
from tests.executors.test_bits import DTYPES
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx

NUMPY, NUMBA = NumpyBackend(threads=1), NumbaBackend(threads=1)
EXACT = [
    "where(y_pred > y_true, 3*(y_pred - y_true), 99*(y_true - y_pred))",
    "maximum(y_pred, y_true)/7 - minimum(y_pred*y_true, 0.1)**3 + abs(y_pred)*sign(y_true)",
    "where(y_pred != y_true, sqrt(abs(y_pred - y_true)), (y_pred - 0.3)**-2)",
]
APPROXIMATE = [
    "log1p((y_pred - y_true)**2) + tanh(y_pred)*exp(-y_true)",
    "expm1(y_pred) + log(y_true**2 + 1)*y_pred",
]
RNG = np.random.default_rng(5)
P, T = RNG.normal(size=8192 + 77), RNG.normal(size=8192 + 77)
P[:9] = T[:9] = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.3, 1e-30]


def run(
    kernel: Kernel, program: Program, numbers: Mapping[str, float], dtype: np.dtype[Any]
) -> dict[str, npt.NDArray[Any]]:
    arrays = {"prediction": P.astype(dtype), "target": T.astype(dtype)}
    arrays |= {name: np.zeros(len(P), dtype) for name in ("value", "slope")}
    kernel({name: arrays[name] for name in program.arrays}, numbers)
    return arrays


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("expression", EXACT + APPROXIMATE)
def test_every_executor_computes_the_same(expression: str, dtype: np.dtype[Any]) -> None:
    program, numbers = compile_programs(expression, ()).both
    expected = run(NUMPY.compile(program, dtype, {}), program, numbers, dtype)
    tolerance = 0.0 if expression in EXACT else 16 * np.finfo(dtype).eps
    for kernel in (HostKernel(program, dtype, {}), NUMBA.compile(program, dtype, {}, keep=False)):
        found = run(kernel, program, numbers, dtype)
        for name in ("value", "slope"):
            np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("expression", EXACT + APPROXIMATE)
def test_nvrtc_compiles(expression: str, dtype: np.dtype[Any]) -> None:
    program, _ = compile_programs(expression, ()).both
    ptx = compile_ptx(cuda_source(program, dtype, storage_dtypes(program, dtype, {})), OPTIONS)
    assert ".entry" in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("expression", EXACT + APPROXIMATE)
def test_a_gpu_computes_the_same(expression: str, dtype: np.dtype[Any]) -> None:
    from optserve_server.arrays.cupy_fused import CupyBackend
    from optserve_server.losses.base import Reduction
    from optserve_server.losses.formula.custom import Custom

    loss, p, t = Custom(expression=expression), P[9:].astype(dtype), T[9:].astype(dtype)
    found, expected = (
        loss.evaluate(p, t, Reduction.SUM, with_gradient=True, backend=backend)
        for backend in (CupyBackend(), NUMPY)
    )
    assert found.gradient is not None
    assert expected.gradient is not None
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-5)
    np.testing.assert_allclose(found.per_example, expected.per_example, rtol=1e-5)
