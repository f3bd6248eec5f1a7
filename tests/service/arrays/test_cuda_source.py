"""The CUDA text of every program compiles, without contraction or approximation."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.narrow_floats import FLOAT32
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.programs import COMPUTE, PROGRAMS, storages
from tests.support.nvrtc import compile_ptx


def elementary() -> Any:
    t = Tracer()
    x = t.load("x")
    for name in ("exp", "expm1", "log", "log1p", "tanh"):
        t.store(name, getattr(t, name)(x))
    return t.build_program()


@pytest.mark.parametrize("dtype", COMPUTE, ids=str)
@pytest.mark.parametrize("name", [*PROGRAMS, "elementary"])
def test_compiles(name: str, dtype: np.dtype[Any]) -> None:
    program = {**PROGRAMS, "elementary": elementary}[name]()
    for storage in storages(program):
        ptx = compile_ptx(cuda_source(program, dtype, storage_dtypes(program, dtype, storage)), OPTIONS)
        assert ".entry kernel" in ptx
        if name != "elementary":  # whose own library code contracts on purpose
            assert not re.search(r"fma\.rn|\.approx|\.ftz", ptx)


def test_an_error_shows_the_compilers_log() -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_ptx("__global__ void kernel() { missing(); }")


def test_the_text_is_a_function_of_the_program() -> None:
    first, second = (
        cuda_source(PROGRAMS["reducing"](), FLOAT32, (FLOAT32, FLOAT32)) for _ in range(2)
    )  # fmt: skip
    assert first == second
