"""Element-wise activations as traced programs, on every executor that needs no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.activations import ALL
from optserve_server.activations.base import ElementwiseActivation
from optserve_server.activations.gelu import Gelu
from optserve_server.activations.prelu import Prelu
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.emission import dtypes
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Op, Program
from optserve_server.arrays.trace import Tracer
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx

ELEMENTWISE = [cls() for cls in ALL if issubclass(cls, ElementwiseActivation)] + [Gelu(approximate=True)]
EVERY: list[Any] = [*ELEMENTWISE, Prelu()]
ROUNDED_ALIKE = {Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.TANH}
"""Operations that executors may round differently; all others give the same bits."""

UNITS = 16
"""Of the last place, at the magnitude of the largest value that adds up to the result."""


def traced(activation: Any) -> Program:
    t = Tracer()
    x, dy = t.load("x"), t.load("dy")
    if isinstance(activation, Prelu):
        t.store("y", activation.forward(t, x, t.load("slope")))
        t.store("dx", activation.gradient(t, x, dy, t.load("slope")))
        t.store("terms", activation.slope_term(t, x, dy))
    else:
        t.store("y", activation.forward(t, x))
        t.store("dx", activation.gradient(t, x, dy))
    return t.program()


def inputs(program: Program, dtype: type) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=999).astype(dtype) for name in program.arrays}
    arrays["x"] *= rng.choice([1e-3, 1, 4, 30], 999).astype(dtype)
    arrays["x"][:6] = [0.0, -0.0, np.inf, -np.inf, -3, 3]
    return arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_executors_agree(activation: Any, dtype: type) -> None:
    program = traced(activation)
    answers = []
    for compile_ in (NumpyBackend(1).compile, NumbaBackend(1).compile, HostKernel):
        arrays = inputs(program, dtype)
        compile_(program, np.dtype(dtype), {})(arrays, {})
        answers.append(arrays)
    exact = not {k.op for k in program.instructions} & ROUNDED_ALIKE
    for other in answers[1:]:
        for name in program.arrays:
            if exact:
                assert np.array_equal(other[name], answers[0][name])
                continue
            unit = np.finfo(dtype).eps * np.maximum(1, np.abs(answers[0]["dy"]))
            np.testing.assert_allclose(other[name] / unit, answers[0][name] / unit, rtol=0, atol=UNITS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_plain_evaluation_gives_the_programs_bits(activation: Any, dtype: type) -> None:
    program = traced(activation)
    arrays = inputs(program, dtype)
    NumpyBackend(1).compile(program, np.dtype(dtype), {})(arrays, {})
    slope = arrays.get("slope")
    assert np.array_equal(arrays["y"], activation.evaluate(arrays["x"], slope))
    assert np.array_equal(arrays["dx"], activation.vjp(arrays["x"], arrays["dy"], slope))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_cuda_compiles(activation: Any, dtype: type) -> None:
    program = traced(activation)
    source = cuda_source(program, np.dtype(dtype), dtypes(program, np.dtype(dtype), {}))
    assert ".entry kernel" in compile_ptx(source, OPTIONS)
