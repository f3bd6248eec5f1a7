"""NumPy and Numba give every rule, flag and dtype the same bits, however arrays are cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optserve_server.arrays.cuda_source import cuda_source
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numba_source import numba_source
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.programs.step_programs import StepPrograms
from optserve_server.spec.session_spec import GradientSpec
from tests.executors.steps import differences, run, start
from tests.support.tiers import slow_unless
from tests.support.variants import Variant, variants

NUMPY, NUMBA = NumpyBackend(), NumbaBackend()
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
WIRE = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
SIZE = 8192 * 2 + 77


def test_every_rule_has_variants() -> None:
    programs = {variant.program for variant in variants()}
    for cls in REGISTRY.values():
        if issubclass(cls, ElementwiseRule):
            bare = StepPrograms(cls(), GradientSpec(), decays=False, averages=False)
            assert bare.trace_apply(False) in programs, cls.name


SOME_DTYPES = slow_unless(lambda dtype: dtype == np.float32, DTYPES)
DECODED = "sgd", "adam"
"""Rules whose kernels are compiled for every type of gradient; `test_a_type_changes_its_decoding_alone`."""
SOME_VARIANTS = slow_unless(lambda variant: variant.representative, variants())
SOME_RULES = slow_unless(lambda variant: variant.representative and variant.rule.name in DECODED, variants())


def require_agreement(variant: Variant, dtype: np.dtype[Any], wire: np.dtype[Any]) -> None:
    reference = NUMPY.compile(variant.program, dtype, {"g": wire})
    expected = run(variant, reference, start(variant, dtype, SIZE), wire)
    assert any(expected[name].any() for name in variant.rule.slots() or ["p"])
    actual = run(
        variant, NUMBA.compile(variant.program, dtype, {"g": wire}), start(variant, dtype, SIZE), wire
    )
    assert not differences(expected, actual), wire


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME_VARIANTS, ids=lambda v: v.label)
def test_numpy_and_numba_agree(variant: Variant, dtype: np.dtype[Any]) -> None:
    require_agreement(variant, dtype, dtype)


WITH_EVERY_TYPE = [variant for variant in variants() if variant.plain and variant.rule.name in DECODED]
SOME_WITH_EVERY_TYPE = slow_unless(lambda variant: variant.rule.name == "sgd", WITH_EVERY_TYPE)

GRADIENT = re.compile(r"const [a-z ]+\*a0\b|a0 = array_at\(np\.\w+|x0 = .*")
"""Where generated source depends on a gradient's type; a program's first array is the gradient."""


@pytest.mark.parametrize("generate", [numba_source, cuda_source], ids=lambda f: f.__name__)
def test_a_type_changes_its_decoding_alone(generate: Callable[..., str]) -> None:
    for variant, dtype in itertools.product(variants(), DTYPES):
        program = variant.program
        assert program.arrays[0] == "g"
        sources = [generate(program, dtype, storage_dtypes(program, dtype, {"g": wire})) for wire in WIRE]
        assert len(set(sources)) == len(WIRE)
        assert len({GRADIENT.sub("", source) for source in sources}) == 1, variant.label


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME_WITH_EVERY_TYPE, ids=lambda v: v.label)
def test_they_agree_on_gradients_of_every_type(variant: Variant, dtype: np.dtype[Any]) -> None:
    for wire in WIRE:
        if wire != dtype:
            require_agreement(variant, dtype, wire)


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME_RULES, ids=lambda v: v.label)
def test_cuts_do_not_matter(variant: Variant, dtype: np.dtype[Any]) -> None:
    for backend in (NUMPY, NUMBA):
        kernel = backend.compile(variant.program, dtype, {"g": dtype})
        whole = run(variant, kernel, start(variant, dtype, SIZE), dtype)
        pieces = run(variant, kernel, start(variant, dtype, SIZE), dtype, cuts=(1, 8, 1001, 8192, 12345))
        assert not differences(whole, pieces), backend.name
