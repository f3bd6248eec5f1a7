"""Functions that executors may round differently stay within a few units of the last place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.narrow_floats import FLOAT32
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.programs import COMPUTE
from tests.support.host_cuda import HostKernel

MOST_ULPS = 4

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "tanh": math.tanh,
}


@pytest.mark.parametrize("dtype", COMPUTE, ids=str)
def test_functions_are_accurate(dtype: np.dtype[Any]) -> None:
    t = Tracer()
    for name in FUNCTIONS:
        t.store(name, getattr(t, name)(t.load("x")))
    program = t.build_program()
    random = np.random.default_rng(0)
    x = (random.choice([1e-6, 1e-3, 1.0, 20.0], 2001) * random.random(2001) + 1e-30).astype(dtype)
    for kernel in (
        NumpyBackend(1).compile(program, dtype, {}),
        NumbaBackend(1).compile(program, dtype, {}),
        HostKernel(program, dtype, {}),
    ):
        arrays = {name: np.zeros_like(x) for name in FUNCTIONS} | {"x": x}
        kernel(arrays, {})
        for name, function in FUNCTIONS.items():
            exact = np.array([function(float(value)) for value in x])
            with np.errstate(under="ignore"):
                unit = np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)
            worst = np.max(np.abs(arrays[name].astype(np.float64) - exact) / unit)
            assert worst <= MOST_ULPS, (kernel, name, worst)


def test_saturated_functions() -> None:
    t = Tracer()
    x = t.load("x")
    t.store("tanh", t.tanh(x))
    t.store("exp", t.exp(x))
    for kernel in (k(1).compile(t.build_program(), FLOAT32, {}) for k in (NumpyBackend, NumbaBackend)):
        arrays = {"x": np.array([-np.inf, np.inf, np.nan], np.float32)}
        arrays |= {name: np.zeros(3, np.float32) for name in ("tanh", "exp")}
        kernel(arrays, {})
        np.testing.assert_array_equal(arrays["tanh"], np.array([-1, 1, np.nan], np.float32))
        np.testing.assert_array_equal(arrays["exp"], np.array([0, np.inf, np.nan], np.float32))
