"""Kernels of programs that callers make up do not pile up."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from optserve_server.arrays import numba_jit
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.narrow_floats import FLOAT32, FLOAT64
from optserve_server.arrays.numba_jit import NumbaBackend, NumbaKernel
from optserve_server.arrays.numpy_blocked import NumpyBackend, NumpyKernel
from optserve_server.arrays.program import Program
from optserve_server.arrays.trace import Tracer

BACKENDS: list[Backend] = [NumpyBackend(threads=1), NumbaBackend(threads=1)]


def times(number: float) -> Program:
    t = Tracer()
    t.store("out", t.load("x") * number)
    return t.build_program()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_a_backend_keeps_nothing_of_what_it_is_not_to_keep(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    kernel: Any = backend.compile(times(7.0), FLOAT32, {}, keep=False)
    assert not list(tmp_path.rglob("*"))
    gone = weakref.ref(kernel)
    del kernel
    gc.collect()
    assert gone() is None
    assert backend.compile(times(7.0), FLOAT32, {}) is backend.compile(times(7.0), FLOAT32, {})


def test_numba_compiles_a_bounded_number_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM would keep the memory of every one, for as long as the process lives."""
    monkeypatch.setattr(numba_jit, "MADE_UP", 2)
    backend = NumbaBackend(threads=1)
    kernels = [backend.compile(times(n), FLOAT64, {}, keep=False) for n in (2.0, 3.0, 5.0)]
    assert [type(kernel) for kernel in kernels] == [NumbaKernel, NumbaKernel, NumpyKernel]
    for kernel, expected in zip(kernels, ([0, 2, 4], [0, 3, 6], [0, 5, 10]), strict=True):
        out = np.zeros(3)
        kernel({"x": np.arange(3.0), "out": out}, {})
        assert out.tolist() == expected
    assert isinstance(backend.compile(times(7.0), FLOAT64, {}), NumbaKernel)
