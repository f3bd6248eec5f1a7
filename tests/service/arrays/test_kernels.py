"""Calls: cuts, threads, block sizes, and arrays that came straight from the wire."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays import numba_jit, numpy_blocked, workers
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.backend_selection import NAMES, gpu_answers, select_backend
from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.narrow_floats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program, ReductionKind
from optserve_server.arrays.trace import Tracer
from tests.service.arrays.programs import inputs, numbers, reducing, same_bits, segments, values

BACKENDS: dict[str, Any] = {"numpy": NumpyBackend(threads=1), "numba": NumbaBackend(threads=1)}


def momentum() -> Program:
    t = Tracer()
    p, g, m = t.load("p"), t.load("g"), t.load("m")
    m = t.scalar("beta") * m + g * t.segment_scalar("clip")
    t.store("m", m)
    t.store("p", p - t.scalar("rate") * m)
    return t.build_program()


def everything(backend: Backend, arrays: dict[str, Any], cut: Segments) -> dict[str, Any]:
    """Copies of the arrays after `reducing`, and its sums."""
    own = {name: array.copy() for name, array in arrays.items()}
    return own | backend.compile(reducing(), FLOAT32, {})(own, numbers(reducing()), cut)


@pytest.mark.parametrize("size", [1, 8192, 100_003])
def test_threads_and_blocks_do_not_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, cut = inputs(reducing(), FLOAT32, {}, size), segments(reducing(), size)
    expected = everything(BACKENDS["numpy"], arrays, cut)
    monkeypatch.setattr(workers, "SMALLEST_SPLIT", 1)
    others: list[Backend] = [NumpyBackend(threads, span) for threads in (1, 2, 5) for span in (1, 1 << 17)]
    for other in [*others, *(NumbaBackend(threads) for threads in (1, 2, 5))]:
        actual = everything(other, arrays, cut)
        assert actual.keys() == expected.keys()
        assert all(same_bits(actual[key], expected[key]) for key in expected), other.device


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_small_segments_sum_like_calls_of_their_own(backend: str) -> None:
    sizes = np.random.default_rng(1).integers(1, 300, 200)
    ends = np.cumsum(sizes)
    g = values(int(ends[-1]), 3, FLOAT32)
    t = Tracer()
    t.reduce("n", ReductionKind.SUM_OF_SQUARES, t.load("g") * 0.5)
    kernel = BACKENDS[backend].compile(t.build_program(), FLOAT32, {})
    together = kernel({"g": g}, {}, Segments(ends))["n"]
    alone = [kernel({"g": part}, {})["n"][0] for part in np.split(g, ends[:-1])]
    assert same_bits(together, np.array(alone))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_slices_give_the_bits_of_the_whole(backend: str, dtype: np.dtype[Any]) -> None:
    program = momentum()
    kernel = BACKENDS[backend].compile(program, dtype, {})
    whole = inputs(program, dtype, {}, 3000)
    parts = {name: array.copy() for name, array in whole.items()}
    scalars, clip = {"beta": 0.9, "rate": 0.1}, np.array([0.3])
    kernel(whole, scalars, Segments(np.array([3000]), {"clip": clip}))
    for low, high in [(0, 1), (1, 18), (18, 1043), (1043, 3000)]:
        views = {name: array[low:high] for name, array in parts.items()}
        kernel(views, scalars, Segments(np.array([high - low]), {"clip": clip}))
    assert all(same_bits(whole[name], parts[name]) for name in whole)


def unalign(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as a received message holds it: read-only, at an odd address."""
    buffer = np.frombuffer(b"x" * (1 + array.ctypes.data % 1) + array.tobytes(), np.uint8)[1:]
    view = buffer.view(array.dtype)
    assert not view.flags.writeable
    assert not view.flags.aligned
    return view


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wire", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64], ids=str)
def test_a_gradient_is_used_where_it_was_received(backend: str, wire: np.dtype[Any]) -> None:
    program = momentum()
    kernel = BACKENDS[backend].compile(program, FLOAT32, {"g": wire})
    arrays = inputs(program, FLOAT32, {"g": wire}, 5000)
    received = {name: array.copy() for name, array in arrays.items()} | {"g": unalign(arrays["g"])}
    scalars, cut = (
        {"beta": 0.9, "rate": 0.1},
        Segments(np.array([2000, 5000]), {"clip": np.array([0.3, 2.0])}),
    )
    kernel(arrays, scalars, cut)
    kernel(received, scalars, cut)
    assert all(same_bits(arrays[name], received[name]) for name in ("p", "m"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_elements(backend: str) -> None:
    arrays = inputs(reducing(), FLOAT32, {}, 0)
    cut = Segments(np.array([0]), {"c": np.array([1.0])})
    sums = BACKENDS[backend].compile(reducing(), FLOAT32, {})(arrays, {}, cut)
    assert {name: total.tolist() for name, total in sums.items()} == {
        "squares": [0.0],
        "magnitudes": [0.0],
        "bad": [0.0],
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_is_compiled_once(backend: str) -> None:
    first = BACKENDS[backend].compile(momentum(), FLOAT32, {})
    assert BACKENDS[backend].compile(momentum(), FLOAT32, {"p": FLOAT32}) is first
    assert BACKENDS[backend].compile(momentum(), FLOAT64, {}) is not first


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_that_differ_touch_nothing(backend: str) -> None:
    kernel = BACKENDS[backend].compile(momentum(), FLOAT32, {})
    scalars, cut = {"beta": 0.9, "rate": 0.1}, Segments(np.array([10]), {"clip": np.ones(1)})
    for arrays in (
        {name: np.ones(11 if name == "m" else 10, np.float32) for name in "pgm"},
        {name: np.ones(9, np.float32) for name in "pgm"},
    ):
        with pytest.raises(ValueError, match="differ in length"):
            kernel(arrays, scalars, cut)
        assert all(np.all(array == 1) for array in arrays.values())


def test_no_call_compiles() -> None:
    kernel: Any = NumbaBackend(threads=1).compile(momentum(), FLOAT32, {})
    dispatcher = kernel.compiled
    assert not dispatcher._can_compile
    arrays = inputs(momentum(), FLOAT32, {}, 10)
    with pytest.raises(TypeError, match="compiled for float32"):
        kernel(arrays | {"p": arrays["p"].astype(np.float64)}, {"beta": 0, "rate": 0})
    assert len(dispatcher.signatures) == 1


WARM = """
import llvmlite
import numba
import numpy as np
from numba.core import dispatcher
from optserve_server.arrays.numba_jit import NumbaBackend
from tests.service.arrays.test_kernels import momentum
kernel = NumbaBackend(1).compile(momentum(), np.dtype(np.float32), {})
print(sum(kernel.compiled.stats.cache_hits.values()), sum(kernel.compiled.stats.cache_misses.values()))
"""


@pytest.mark.slow
def test_another_process_finds_the_compiled_kernel(tmp_path: Path) -> None:
    def start(folder: Path) -> str:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", WARM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    with ThreadPoolExecutor(2) as pool:  # processes that begin at once do not disturb each other
        assert set(pool.map(start, [tmp_path / "new"] * 2)) <= {"0 1", "1 0"}
    assert start(tmp_path / "new") == "1 0"
    for index in (tmp_path / "new").rglob("*.nbi"):
        index.write_bytes(b"nonsense")
    assert start(tmp_path / "new") == "0 1"
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert [start(blocked), start(blocked)] == ["0 1", "0 1"]


def test_what_compiled_code_depends_on_is_part_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is kept across versions holds nothing that was compiled with other options."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for _ in range(2):
        NumbaBackend(threads=1).compile(momentum(), FLOAT32, {})
        monkeypatch.setattr(numba_jit, "BUILD", numba_jit.BUILD.replace("'numpy'", "'python'"))
    headers = [path.read_text().splitlines()[0] for path in (tmp_path / "optserve").glob("*.py")]
    assert sorted("'python'" in header for header in headers) == [False, False, True, True]
    for header in headers:
        assert "-runtime-memory-check-threshold=128" in header
        assert f"llvmlite {llvmlite.__version__}" in header


def test_selection() -> None:
    assert select_backend("numpy").name == "numpy"
    assert select_backend("numba").name == "numba"
    assert select_backend("auto").name == ("cupy" if gpu_answers() else "numba")
    with pytest.raises(ValueError, match="one of auto, cupy, numba, numpy"):
        select_backend("abacus")
    assert NAMES == ("auto", "cupy", "numba", "numpy")
    assert numba_jit.NumbaBackend.name == "numba"


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_extrema_where_numpy_decides_between_zeros_otherwise(dtype: np.dtype[Any]) -> None:
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], dtype)
    a, b = (x.ravel() for x in np.meshgrid(special, special))
    out = np.empty_like(a)
    numpy_blocked._maximum(a, b, out)
    assert same_bits(out, np.where((a > b) | np.isnan(a), a, b))
    numpy_blocked._minimum(a, b, out)
    assert same_bits(out, np.where((a < b) | np.isnan(a), a, b))
    assert numpy_blocked._choose_extremum_function(
        lambda x, y: np.abs(np.maximum(x, y)), numpy_blocked._maximum
    ) is (numpy_blocked._maximum)
