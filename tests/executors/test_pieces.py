"""Passes in pieces, and replies written by the update itself, give the bits of whole calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays import workers
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.kernel import BoundKernel, Sums
from optserve_server.arrays.narrow_floats import encode_narrow_floats
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes
from optserve_server.optimizers.adam import Adam
from optserve_server.programs.step_programs import GRADIENT, REPLY, StepPrograms
from tests.executors.steps import Arrays, differences, gradient, numbers
from tests.executors.test_bits import DTYPES, SOME_DTYPES, WIRE
from tests.support.host_cuda import HostKernel
from tests.support.nvrtc import compile_ptx
from tests.support.tiers import slow_unless
from tests.support.variants import BARE, BY_TENSOR, BY_VALUE, FULL, Variant

BACKENDS: dict[str, Callable[[], Backend]] = {
    "numpy": lambda: NumpyBackend(threads=1),
    "numpy, 3 threads": lambda: NumpyBackend(threads=3, span_bytes=1),
    "numba": lambda: NumbaBackend(threads=1),
    "numba, 3 threads": lambda: NumbaBackend(threads=3),
}
ENDS = {"one": [50_003], "three": [8193, 8200, 50_003], "many": [*range(97, 50_003, 97), 50_003]}
CUTS = {"whole": [], "odd": [1, 8191, 8192, 8193, 8199, 20_000, 20_001, 50_002], "even": [16_384, 32_768]}
GUARDS = {"bare": BARE, "full": FULL, "by value": BY_VALUE, "by tensor": BY_TENSOR}
SOME_BACKENDS = slow_unless(lambda name: "threads" in name, BACKENDS)
SOME_GUARDS = slow_unless(lambda name: name == "full", GUARDS)
SOME_WIRE = slow_unless(lambda dtype: dtype == ml_dtypes.bfloat16, WIRE)


@pytest.fixture(autouse=True)
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads work on small calls too."""
    monkeypatch.setattr(workers, "SMALLEST_SPLIT", 1)


def programs_of(guard: str) -> StepPrograms:
    return StepPrograms(Adam(), GUARDS[guard], decays=True, averages=guard == "full")


def arrays_of(program: Program, dtype: np.dtype[Any], wire: np.dtype[Any], size: int) -> Arrays:
    rng = np.random.default_rng(11)
    arrays: Arrays = {name: rng.random(size).astype(dtype) for name in program.arrays}
    arrays[GRADIENT] = gradient(3, wire, size)
    return arrays


def scalars_of(programs: StepPrograms, scaled: bool) -> dict[str, float]:
    assert isinstance(programs.rule, Adam)
    return numbers(Variant("adam", programs.rule, programs, scaled))[1]


def in_pieces(
    bound: BoundKernel, cuts: list[int], scalars: dict[str, float], given: Arrays, of_segments: Any
) -> Sums:
    under_way = bound.start_pass(scalars, given, of_segments)
    for stop in cuts:
        under_way.compute_until(stop)
    return under_way.finish()


@pytest.mark.parametrize("wire", SOME_WIRE, ids=str)
@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("guard", SOME_GUARDS)
@pytest.mark.parametrize("backend", SOME_BACKENDS)
def test_sums_by_pieces(backend: str, guard: str, dtype: np.dtype[Any], wire: np.dtype[Any]) -> None:
    programs = programs_of(guard)
    program, scalars = programs.trace_measure(True), scalars_of(programs, True)
    for ends in ENDS.values():
        size, marks = ends[-1], np.array(ends, np.int64)
        arrays = arrays_of(program, dtype, wire, size)
        own = {name: array for name, array in arrays.items() if name != GRADIENT}
        kernels = [
            b.compile(program, dtype, {GRADIENT: wire}) for b in (NumpyBackend(1), BACKENDS[backend]())
        ]
        expected = kernels[0].bind(own, size, marks)(scalars, arrays)
        bound = kernels[1].bind(own, size, marks)
        for cuts in CUTS.values():
            found = in_pieces(bound, cuts, scalars, arrays, {})
            assert found.keys() == expected.keys()
            assert not differences(expected, found), (len(ends), cuts)
        assert not differences(expected, bound(scalars, arrays))


def test_a_pass_computes_with_what_has_arrived() -> None:
    """A block is summed once it is whole: later elements are not looked at before."""
    program, size = programs_of("bare").trace_measure(False), 30_000
    for make in BACKENDS.values():
        bound = make().compile(program, DTYPES[0], {}).bind({}, size)
        g = np.full(size, np.nan, np.float32)
        under_way = bound.start_pass({}, {GRADIENT: g})
        for start in range(0, size, 1000):
            g[start : start + 1000] = 0.5
            under_way.compute_until(start + 1000)
            g[: start // 8192 * 8192] = np.nan  # what was summed is not read again
        assert under_way.finish() == {"non_finite": [0.0], "squares": [size / 4]}


def test_passes_under_way_at_once_do_not_mix() -> None:
    program, size = programs_of("bare").trace_measure(False), 30_000
    for make in BACKENDS.values():
        bound = make().compile(program, DTYPES[0], {}).bind({}, size)
        values = [np.full(size, x, np.float32) for x in (1.0, 2.0)]
        passes = [bound.start_pass({}, {GRADIENT: g}) for g in values]
        for stop in (9000, 20_000):
            for under_way in passes:
                under_way.compute_until(stop)
        assert bound({}, {GRADIENT: values[0]})["squares"] == [size]
        assert [under_way.finish()["squares"][0] for under_way in passes] == [size, 4 * size]


def test_a_call_counts_nothing_of_the_one_before() -> None:
    program, size = programs_of("bare").trace_measure(False), 30_000
    for make in BACKENDS.values():
        bound = make().compile(program, DTYPES[0], {}).bind({}, size)
        g = np.ones(size, np.float32)
        g[[5, 20_000]] = np.nan, np.inf
        assert bound({}, {GRADIENT: g})["non_finite"] == [2.0]
        assert bound({}, {GRADIENT: np.ones(size, np.float32)}) == {"non_finite": [0.0], "squares": [size]}


def reply_of(parameters: npt.NDArray[Any], wire: np.dtype[Any]) -> npt.NDArray[Any]:
    reply = np.empty(len(parameters), wire)
    with np.errstate(over="ignore"):
        encode_narrow_floats(parameters, reply)
    return reply


@pytest.mark.parametrize("wire", SOME_WIRE, ids=str)
@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("guard", SOME_GUARDS)
@pytest.mark.parametrize("backend", SOME_BACKENDS)
def test_replies_of_the_update(backend: str, guard: str, dtype: np.dtype[Any], wire: np.dtype[Any]) -> None:
    programs = programs_of(guard)
    scalars = scalars_of(programs, False)
    ends = np.array(ENDS["three"], np.int64)
    of_segments = {"guard_clip": np.array([0.3, 1.0, 0.9])} if guard == "by tensor" else {}
    size, executor = int(ends[-1]), BACKENDS[backend]()
    plain = programs.trace_apply(False)
    expected = arrays_of(plain, dtype, wire, size)
    kernel = NumpyBackend(1).compile(plain, dtype, {GRADIENT: wire})
    kernel.bind(expected, size, ends)(scalars, of_segments=of_segments)
    reply = reply_of(expected["p"], wire)
    for place, cuts in itertools.product((GRADIENT, REPLY), CUTS.values()):
        program = programs.trace_apply(False, place)
        actual = arrays_of(plain, dtype, wire, size)
        if place == REPLY:
            actual[REPLY] = np.zeros(size, wire)
        given = {name: actual[name] for name in (GRADIENT, place)}
        own = {name: array for name, array in actual.items() if name not in given}
        storage = {name: array.dtype for name, array in given.items()}
        bound = executor.compile(program, dtype, storage).bind(own, size, ends)
        in_pieces(bound, cuts, scalars, given, of_segments)
        assert not differences({**expected, place: reply}, actual), (place, cuts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [GRADIENT, REPLY])
def test_replies_of_the_generated_cuda(place: str, dtype: np.dtype[Any]) -> None:
    programs = programs_of("full")
    program, scalars = programs.trace_apply(False, place), scalars_of(programs, False)
    for wire in WIRE:
        storage = {GRADIENT: wire, place: wire}
        expected = arrays_of(program, dtype, wire, 9000) | {place: gradient(3, wire, 9000)}
        actual = {name: array.copy() for name, array in expected.items()}
        NumpyBackend(1).compile(program, dtype, storage)(expected, scalars)
        HostKernel(program, dtype, storage)(actual, scalars)
        assert not differences(expected, actual), wire
        ptx = compile_ptx(cuda_source(program, dtype, storage_dtypes(program, dtype, storage)), OPTIONS)
        assert "fma." not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("guard", GUARDS)
def test_pieces_and_replies_on_a_gpu(guard: str, dtype: np.dtype[Any]) -> None:
    """A gradient that arrives in pinned memory, measured on its way, answered in its place."""
    from optserve_server.arrays.cupy_fused import CupyBackend

    gpu: Backend = CupyBackend()
    programs, ends = programs_of(guard), np.array(ENDS["three"], np.int64)
    scalars, size = scalars_of(programs, False), int(ends[-1])
    of_segments = {"guard_clip": np.array([0.3, 1.0, 0.9])} if guard == "by tensor" else {}
    for wire, cuts in itertools.product(WIRE, CUTS.values()):
        measure, update = programs.trace_measure(False), programs.trace_apply(False, GRADIENT)
        expected = arrays_of(update, dtype, wire, size)
        host = gpu.host_buffer(size * wire.itemsize).view(wire)
        host[:] = expected[GRADIENT]
        own = {name: gpu.from_host(a.copy()) for name, a in expected.items() if name != GRADIENT}
        sums = NumpyBackend(1).compile(measure, dtype, {GRADIENT: wire}).bind(expected, size, ends)(scalars)
        reference = NumpyBackend(1).compile(update, dtype, {GRADIENT: wire}).bind(expected, size, ends)
        reference(scalars, of_segments=of_segments)
        mirror = gpu.make_device_copy(host)
        given = {GRADIENT: mirror.array}
        measuring = (
            gpu.compile(measure, dtype, {GRADIENT: wire}).bind(own, size, ends).start_pass(scalars, given)
        )
        for low, high in itertools.pairwise([0, *cuts, size]):
            mirror.copy_to_device(low, high)
            measuring.compute_until(high)
        assert not differences(sums, measuring.finish())
        bound = gpu.compile(update, dtype, {GRADIENT: wire}).bind(own, size, ends)
        updating = bound.start_pass(scalars, given, of_segments)
        for low, high in itertools.pairwise([0, *cuts, size]):
            updating.compute_until(high)
            mirror.copy_to_host(low, high)
        updating.finish()
        mirror.wait()
        found = {name: gpu.to_host(array) for name, array in own.items()}
        assert not differences(expected, {**found, GRADIENT: host}), (wire, cuts)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_arrays_that_a_kernel_cannot_take_are_refused(backend: str) -> None:
    program = programs_of("bare").trace_apply(False, REPLY)
    kernel = BACKENDS[backend]().compile(program, DTYPES[0], {REPLY: WIRE[0]})
    arrays = arrays_of(program, DTYPES[0], DTYPES[0], 10)
    arrays[REPLY] = np.zeros(10, WIRE[0])
    fixed = np.zeros(10, WIRE[0])
    fixed.flags.writeable = False
    with pytest.raises(TypeError, match="reply is float32, but the kernel was compiled for float16"):
        kernel.bind({**arrays, REPLY: np.zeros(10, np.float32)}, 10)
    for wrong in (np.zeros(20, WIRE[0])[::2], fixed):
        with pytest.raises(ValueError, match="reply is not contiguous, or is to be written and cannot be"):
            kernel.bind({**arrays, REPLY: wrong}, 10)
    without = {name: array for name, array in arrays.items() if name != REPLY}
    bound = kernel.bind(without, 10)
    with pytest.raises(ValueError, match="differ in length"):
        bound(scalars_of(programs_of("bare"), False), {REPLY: np.zeros(9, WIRE[0])})
