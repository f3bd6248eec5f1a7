"""Element-wise activations as traced programs, on every executor that needs no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.activations import REGISTRY
from optserve_server.activations.base import ElementwiseActivation
from optserve_server.activations.gated.gelu import GELU
from optserve_server.activations.piecewise_linear.prelu import PReLU
from optserve_server.activations.piecewise_linear.relu import ReLU
from optserve_server.activations.piecewise_linear.threshold import Threshold
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.programs import APPROXIMATE
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx
from tests.support.tiers import slow_unless

ELEMENTWISE = [cls() for cls in REGISTRY.values() if issubclass(cls, ElementwiseActivation)] + [
    GELU(approximate=True),
    ReLU(max_value=2.0, negative_slope=0.25, threshold=0.5),
    Threshold(threshold=0.5, value=2.0),
]
EVERY: list[Any] = [*ELEMENTWISE, PReLU()]
UNITS = 4
"""Of the last place, at the magnitude of the largest value that adds up to the result."""


def trace_activation(activation: Any) -> Program:
    t = Tracer()
    x, dy = t.load("x"), t.load("dy")
    if isinstance(activation, PReLU):
        t.store("y", activation.forward(t, x, t.load("slope")))
        t.store("dx", activation.gradient(t, x, dy, t.load("slope")))
        t.store("terms", activation.slope_gradient_term(t, x, dy))
    else:
        t.store("y", activation.forward(t, x))
        t.store("dx", activation.gradient(t, x, dy))
    return t.build_program()


def inputs(program: Program, dtype: type) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=999).astype(dtype) for name in program.arrays}
    arrays["x"] *= rng.choice([1e-3, 1, 4, 30], 999).astype(dtype)
    arrays["x"][:6] = [0.0, -0.0, np.inf, -np.inf, -3, 3]
    return arrays


@pytest.mark.parametrize("dtype", slow_unless(lambda dtype: dtype is np.float32, [np.float32, np.float64]))
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_executors_agree(activation: Any, dtype: type) -> None:
    program = trace_activation(activation)
    answers = []
    for compile_ in (NumpyBackend(1).compile, NumbaBackend(1).compile, HostKernel):
        arrays = inputs(program, dtype)
        compile_(program, np.dtype(dtype), {})(arrays, {})
        answers.append(arrays)
    for other in answers[1:]:
        require_agreement(program, other, answers[0], dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_a_gpu_agrees(activation: Any, dtype: type) -> None:
    from optserve_server.arrays.cupy_fused import CupyBackend

    program, backend = trace_activation(activation), CupyBackend()
    expected = inputs(program, dtype)
    there = {name: backend.from_host(array) for name, array in inputs(program, dtype).items()}
    backend.compile(program, np.dtype(dtype), {})(there, {})
    NumpyBackend(1).compile(program, np.dtype(dtype), {})(expected, {})
    found = {name: backend.to_host(array) for name, array in there.items()}
    require_agreement(program, found, expected, dtype)


def require_agreement(
    program: Program, found: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: type
) -> None:
    """The same bits where only exact operations are used, otherwise the same to a few units."""
    exact = not {k.op for k in program.instructions} & set(APPROXIMATE)
    for name in program.arrays:
        value = np.nan_to_num(np.abs(expected[name]), posinf=0)
        unit = np.finfo(dtype).eps * np.maximum(np.maximum(1, np.abs(expected["dy"])), value)
        if exact:
            assert np.array_equal(found[name], expected[name])
        else:
            np.testing.assert_allclose(found[name] / unit, expected[name] / unit, rtol=0, atol=UNITS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_plain_evaluation_gives_the_programs_bits(activation: Any, dtype: type) -> None:
    program = trace_activation(activation)
    arrays = inputs(program, dtype)
    NumpyBackend(1).compile(program, np.dtype(dtype), {})(arrays, {})
    slope = arrays.get("slope")
    assert np.array_equal(arrays["y"], activation.evaluate(arrays["x"], slope))
    assert np.array_equal(arrays["dx"], activation.vjp(arrays["x"], arrays["dy"], slope))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_cuda_compiles(activation: Any, dtype: type) -> None:
    program = trace_activation(activation)
    source = cuda_source(program, np.dtype(dtype), storage_dtypes(program, np.dtype(dtype), {}))
    assert ".entry kernel" in compile_ptx(source, OPTIONS)
