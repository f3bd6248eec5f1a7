"""All executors give the bits that the plain interpretation gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.arrays import numba_source
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import Kernel
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.interpretation import interpret, round_to
from tests.service.arrays.programs import (
    COMPUTE,
    PROGRAMS,
    SIZES,
    WIRE,
    inputs,
    numbers,
    same_bits,
    segments,
    storages,
)
from tests.support.host_cuda import HostKernel
from tests.support.tiers import slow_unless


class HostBackend:
    """The generated CUDA arithmetic on the host."""

    def compile(
        self, program: Program, dtype: np.dtype[Any], storage: dict[str, np.dtype[Any]]
    ) -> HostKernel:
        return HostKernel(program, dtype, storage)


SOME_DTYPES = slow_unless(lambda dtype: dtype == np.float32, COMPUTE)
"""Each type costs compilations of its own."""

BACKENDS: dict[str, Any] = {"numpy": NumpyBackend(), "numba": NumbaBackend(), "host": HostBackend()}


def check(kernel: Kernel, program: Program, dtype: np.dtype[Any], storage: Any, size: int) -> None:
    arrays = inputs(program, dtype, storage, size)
    cut = segments(program, size, seed=size)
    after, sums = interpret(program, dtype, arrays, numbers(program), cut)
    actual = kernel(arrays, numbers(program), cut)
    for name in program.arrays:
        assert same_bits(arrays[name], after[name]), (name, size, storage[name])
    assert actual.keys() == sums.keys()
    for name, expected in sums.items():
        assert same_bits(actual[name], expected), (name, size)


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_of_every_size(backend: str, name: str, dtype: np.dtype[Any]) -> None:
    program = PROGRAMS[name]()
    storage = dict.fromkeys(program.arrays, dtype)
    kernel = BACKENDS[backend].compile(program, dtype, storage)
    for size in SIZES:
        check(kernel, program, dtype, storage, size)


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("name", ["alias_arrays", "reducing"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_of_every_storage(backend: str, name: str, dtype: np.dtype[Any]) -> None:
    program = PROGRAMS[name]()
    for storage in list(storages(program))[-1 if name == "reducing" else 0 :: 2]:  # each costs a compilation
        check(BACKENDS[backend].compile(program, dtype, storage), program, dtype, storage, 8192 + 77)


@pytest.mark.parametrize("source", WIRE, ids=str)
@pytest.mark.parametrize("target", WIRE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_float16_and_bfloat16_is_decoded(
    backend: str, source: np.dtype[Any], target: np.dtype[Any]
) -> None:
    t = Tracer()
    t.store("out", t.load("x"))
    every = np.arange(1 << 16, dtype=np.uint16)
    x = every.view(source) if source.itemsize == 2 else every.astype(source) * source.type(2.0**-20)
    out = np.zeros(len(x), target)
    storage = {"x": source, "out": target}
    BACKENDS[backend].compile(t.build_program(), COMPUTE[1], storage)({"x": x, "out": out}, {})
    with np.errstate(all="ignore"):
        assert same_bits(out, round_to(x.astype(np.float64), target))


@pytest.mark.parametrize("target", WIRE, ids=str)
def test_float16_without_its_instructions(target: np.dtype[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_source, "HALVES", numba_source.BY_INTEGERS)
    BACKENDS["plain numba"] = NumbaBackend()
    try:
        test_every_float16_and_bfloat16_is_decoded("plain numba", WIRE[0], target)
        test_every_float16_and_bfloat16_is_decoded("plain numba", target, WIRE[0])
    finally:
        del BACKENDS["plain numba"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", COMPUTE, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_bits_on_a_gpu(name: str, dtype: np.dtype[Any]) -> None:
    from optserve_server.arrays.cupy_fused import CupyBackend

    backend: Backend = CupyBackend()
    program = PROGRAMS[name]()
    for storage in storages(program):
        arrays = inputs(program, dtype, storage, 20_000)
        cut = segments(program, 20_000)
        after, sums = interpret(program, dtype, arrays, numbers(program), cut)
        there = {key: backend.from_host(array) for key, array in arrays.items()}
        actual = backend.compile(program, dtype, storage)(there, numbers(program), cut)
        assert all(same_bits(backend.to_host(there[key]), after[key]) for key in program.arrays)
        assert all(same_bits(actual[key], sums[key]) for key in sums)
