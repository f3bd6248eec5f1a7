"""The generated CUDA of every rule, flag and dtype: NVRTC compiles it, and its arithmetic,
compiled for the host without contraction, gives NumPy's bits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.programs.step_programs import StepPrograms
from tests.executors.steps import differences, run, start
from tests.executors.test_bits import SOME_DTYPES, SOME_VARIANTS, WIRE, WITH_EVERY_TYPE
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx
from tests.support.variants import BARE, BY_VALUE, FULL, Variant, rules

NUMPY = NumpyBackend()
SIZE = 8192 + 77


def wires(variant: Variant, dtype: np.dtype[Any]) -> list[np.dtype[Any]]:
    return WIRE if variant in WITH_EVERY_TYPE else [dtype]


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=lambda v: v.label)
def test_host_arithmetic_agrees(variant: Variant, dtype: np.dtype[Any]) -> None:
    for wire in wires(variant, dtype):
        reference = NUMPY.compile(variant.program, dtype, {"g": wire})
        expected = run(variant, reference, start(variant, dtype, SIZE), wire)
        host = HostKernel(variant.program, dtype, {"g": wire})
        assert not differences(expected, run(variant, host, start(variant, dtype, SIZE), wire)), wire


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=lambda v: v.label)
def test_nvrtc_compiles(variant: Variant, dtype: np.dtype[Any]) -> None:
    for wire in wires(variant, dtype):
        storage = storage_dtypes(variant.program, dtype, {"g": wire})
        ptx = compile_ptx(cuda_source(variant.program, dtype, storage), OPTIONS)
        assert ".entry" in ptx
        assert "fma." not in ptx


def others() -> dict[str, Program]:
    """What a session runs beside its steps."""
    found = {}
    for label, rule in rules():
        if rule.has_lookahead:
            programs = StepPrograms(rule, BARE, decays=False, averages=False)
            found[f"{label} look-ahead"] = programs.lookahead_program
    for name, gradient in {"full": FULL, "by value": BY_VALUE}.items():
        programs = StepPrograms(rule, gradient, decays=True, averages=True)
        for scaled in (False, True):
            found[f"measure {name} {scaled}"] = programs.trace_measure(scaled)
            found[f"measure micro-batch {name} {scaled}"] = programs.trace_measure_micro_batch(scaled)
            found[f"accumulate {name} {scaled}"] = programs.trace_accumulate(scaled)
        found[f"average {name}"] = programs.average_program
        found[f"measure {name} wide"] = dataclasses.replace(programs, wide=True).trace_measure(False)
    return found


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("label", others())
def test_nvrtc_compiles_what_runs_beside_steps(label: str, dtype: np.dtype[Any]) -> None:
    program = others()[label]
    for wire in WIRE if "g" in program.arrays else [dtype]:
        storage = storage_dtypes(program, dtype, {"g": wire} if "g" in program.arrays else {})
        assert ".entry" in compile_ptx(cuda_source(program, dtype, storage), OPTIONS)
