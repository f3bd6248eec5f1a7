"""Every optimizer vector on the rule itself and on every executor, without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server import optimizers
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from tests.conformance import trajectories
from tests.conformance.comparator import judge
from tests.conformance.corpus import Case, cases
from tests.conformance.specs import resolve

CASES = [pytest.param(case, id=name) for name, case in cases("optimizers")]
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]

each_case = pytest.mark.parametrize("case", CASES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module")
def numpy_backend() -> Backend:
    return NumpyBackend()


@pytest.fixture(scope="module")
def numba_backend() -> Backend:
    return NumbaBackend()


@pytest.fixture(scope="module")
def cupy_backend() -> Backend:
    from optserve_server.arrays.cupy_fused import CupyBackend

    return CupyBackend()


@each_dtype
@each_case
def test_rule_on_plain_arrays(case: Case, dtype: np.dtype[Any]) -> None:
    rule = resolve(optimizers.REGISTRY, case.spec)
    answer = trajectories.follow(rule, case, dtype, trajectories.plainly(rule))
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "optimizers")


@each_dtype
@each_case
def test_numpy_executor(case: Case, dtype: np.dtype[Any], numpy_backend: Backend) -> None:
    on_backend(case, dtype, numpy_backend)


@each_dtype
@each_case
def test_numba_executor(case: Case, dtype: np.dtype[Any], numba_backend: Backend) -> None:
    on_backend(case, dtype, numba_backend)


@pytest.mark.gpu
@each_dtype
@each_case
def test_cupy_executor(case: Case, dtype: np.dtype[Any], cupy_backend: Backend) -> None:
    on_backend(case, dtype, cupy_backend)


def on_backend(case: Case, dtype: np.dtype[Any], backend: Backend) -> None:
    rule = resolve(optimizers.REGISTRY, case.spec)
    answer = trajectories.follow(rule, case, dtype, trajectories.compiled(rule, backend, dtype))
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "optimizers")
