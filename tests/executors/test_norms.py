"""Norms over the whole range of float64: right to the last digits, and the same bits everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.norms import LARGE, SMALL, norm_from_sums, segment_norms
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.optimizers.sgd import SGD
from optserve_server.programs.step_programs import GRADIENT, StepPrograms
from tests.support.host_cuda import HostKernel
from tests.support.variants import BARE

FLOAT64 = np.dtype(np.float64)
MEASURE = StepPrograms(SGD(), BARE, decays=False, averages=False, wide=True).trace_measure(False)
SIZE = 8192 * 2 + 77
ENDS = {"one": [SIZE], "three": [8193, 8200, SIZE], "many": [*range(97, SIZE, 97), SIZE]}
BACKENDS: dict[str, Callable[[], Backend]] = {
    "numpy": lambda: NumpyBackend(threads=1),
    "numpy, 3 threads": lambda: NumpyBackend(threads=3, span_bytes=1),
    "numba": lambda: NumbaBackend(threads=1),
    "numba, 3 threads": lambda: NumbaBackend(threads=3),
}


def spread(low: float, high: float) -> npt.NDArray[np.float64]:
    """Elements of both signs whose magnitudes' logarithms are spread evenly."""
    rng = np.random.default_rng(5)
    signs: npt.NDArray[np.float64] = rng.choice([-1.0, 1.0], SIZE)
    return signs * 10 ** rng.uniform(low, high, SIZE)


CASES = {
    "1e200": spread(199, 201),
    "1e-200": spread(-201, -199),
    "around 1": spread(-3, 3),
    "the largest": spread(305, 305.5),
    "subnormal": spread(-320, -310),
    "squares that are subnormal": spread(-160, -155),
    "squares that just fit": spread(151, 153.9),
    "all": spread(-300, 300),
    "one large": np.where(np.arange(SIZE) == 9000, 1e200, 1e-200),
    "zeros": np.zeros(SIZE),
}


def compute_expected(values: npt.NDArray[np.float64], ends: list[int]) -> list[float]:
    return [math.hypot(*values[a:b]) for a, b in itertools.pairwise([0, *ends])]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("case", CASES)
def test_norms_and_their_bits(case: str, ends: str) -> None:
    values, marks = CASES[case], np.array(ENDS[ends], np.int64)
    arrays = {GRADIENT: values}
    sums: dict[str, Any] = {"cuda": HostKernel(MEASURE, FLOAT64, {})(arrays, {}, Segments(marks, {}))}
    for name, make in BACKENDS.items():
        bound = make().compile(MEASURE, FLOAT64, {}).bind(arrays, SIZE, marks)
        sums[name] = bound({})
        pieces = bound.start_pass({})
        for stop in (1, 8192, 8200, 16_000):
            pieces.compute_until(stop)
        sums[f"{name}, in pieces"] = pieces.finish()
    found = {name: segment_norms(of, "squares") for name, of in sums.items()}
    np.testing.assert_allclose(found["numpy"], compute_expected(values, ENDS[ends]), 1e-14, 5e-324)
    assert {array.tobytes() for array in found.values()} == {found["numpy"].tobytes()}
    joint = {name: float(of[name].sum()) for of in (sums["numpy"],) for name in of}
    assert norm_from_sums(joint, "squares") == pytest.approx(math.hypot(*values), rel=1e-14, abs=5e-324)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_has_such_a_norm(value: float) -> None:
    sums = NumpyBackend().compile(MEASURE, FLOAT64, {}).bind({GRADIENT: np.array([1.0, value])}, 2)({})
    found = (
        segment_norms(sums, "squares")[0],
        norm_from_sums({name: of[0] for name, of in sums.items()}, "squares"),
    )
    assert all(math.isnan(x) if math.isnan(value) else x == math.inf for x in found)


def test_float32_takes_one_sum() -> None:
    """Its squares cannot leave the range of float64."""
    narrow = StepPrograms(SGD(), BARE, decays=False, averages=False).trace_measure(False)
    assert [r.name for r in narrow.reductions] == ["non_finite", "squares"]
    assert [r.name for r in MEASURE.reductions][1:] == ["squares", "squares" + LARGE, "squares" + SMALL]
