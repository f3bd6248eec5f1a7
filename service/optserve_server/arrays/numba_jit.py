"""The executor that is taken where Numba is installed: one fused loop per program."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from numba import types

from optserve_server.arrays import numba_runtime, source_cache
from optserve_server.arrays.backend import Array, HostArray, Kernel, Segments
from optserve_server.arrays.emission import dtypes, stored
from optserve_server.arrays.formats import BFLOAT16, FLOAT16
from optserve_server.arrays.numba_source import numba_source, runtime_source
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import Cut, cut_of
from optserve_server.arrays.workers import Workers

# A loop over many arrays compares each with each for overlap before it runs vectorised;
# above its usual limit of 8 comparisons LLVM gives up and runs it one by one.
llvmlite.binding.set_option("optserve", "-runtime-memory-check-threshold=128")

Compiled = Callable[..., None]

NOTHING = np.zeros((0, 1))
"""The numbers of no segment scalars."""


NO_SUMS = np.zeros((0, 0))
"""The sums of no reductions."""


MADE_UP = 256
"""Programs that callers make up that are compiled, at one to three megabytes each."""


def _array(dtype: Any, dimensions: int, readonly: bool) -> Any:
    """An argument type that every array fits: unaligned ones, and read-only if so said."""
    return types.Array(dtype, dimensions, "C", readonly=readonly, aligned=False)


INTEGERS = _array(types.int64, 1, True)
FLOATS = _array(types.float64, 1, True)
TABLE = _array(types.float64, 2, True)
SUMS = _array(types.float64, 2, False)


def _compile(source: str, function: str, signature: Any) -> Compiled:
    """Compiles now, from the disk cache if it can: a call never compiles."""
    module, cacheable = source_cache.load(source)
    return _compiled(module, function, signature, cacheable)


def _compile_once(source: str, function: str, signature: Any) -> Compiled:
    """Compiles now what is not to be kept on disk; ``source`` has no runtime of its own."""
    module = source_cache.in_memory(source, vars(numba_runtime))
    return _compiled(module, function, signature, cacheable=False)


def _compiled(module: ModuleType, function: str, signature: Any, cacheable: bool) -> Compiled:
    body = getattr(module, function)
    body = getattr(body, "py_func", body)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if cacheable:
        # A cache that cannot be written, or holds nonsense, is no reason to fail; an error
        # of the compiler itself comes again below.
        with contextlib.suppress(Exception):
            cached: Compiled = numba.njit([signature], cache=True, **options)(body)
            return cached
    compiled: Compiled = numba.njit([signature], **options)(body)
    return compiled


class NumbaKernel:
    """A program compiled for the host; a `Kernel`.

    Args:
        program: the program.
        dtype: the compute dtype.
        storage: the storage dtype of each of the program's arrays.
        workers: the threads to use.
        fold: adds up the blocks of segments.
        keep: whether it may be kept on disk.
    """

    def __init__(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: Sequence[np.dtype[Any]],
        workers: Workers,
        fold: Compiled,
        keep: bool = True,
    ) -> None:
        self.program, self.workers, self.fold = program, workers, fold
        passed = [_passed(dtype) for dtype in storage]
        self.storage = tuple(zip(program.arrays, storage, passed, strict=True))
        source = numba_source(program, dtype, storage, whole=keep)
        self.compiled = (_compile if keep else _compile_once)(source, "kernel", self._signature())

    def _signature(self) -> Any:
        written = stored(self.program)
        arrays = [
            _array(numba.from_dtype(passed), 1, readonly=name not in written)
            for name, _, passed in self.storage
        ]
        position = types.int64
        return types.void(
            position, position, INTEGERS, INTEGERS, INTEGERS, FLOATS, TABLE, SUMS, *arrays
        )  # fmt: skip

    def __call__(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Runs the program; see `Kernel`."""
        own = [_bits(arrays[name], dtype, passed) for name, dtype, passed in self.storage]
        size = len(own[0]) if own else 0
        cut = cut_of(size, segments)
        if any(len(array) != size for array in own) or cut.size != size:
            raise ValueError("arrays and segments differ in length")
        numbers = np.array([scalars[name] for name in self.program.scalars], np.float64)
        sums = np.zeros((len(self.program.reductions), cut.count)) if self.program.reductions else NO_SUMS
        runs = self._runs(segments)

        def work(low: int, high: int) -> None:
            self.compiled(low, high, cut.starts, cut.ends, cut.firsts, numbers, runs, sums, *own)

        marks = self.workers.marks(size)
        if self.program.reductions:
            marks = [cut.block_at(mark) for mark in marks]
        self.workers.run(work, marks)
        return self._folded(sums, cut)

    def _runs(self, segments: Segments | None) -> npt.NDArray[np.float64]:
        names = self.program.segment_scalars
        if not names:
            return NOTHING
        if segments is None:
            raise ValueError(f"segments are needed for {', '.join(names)}")
        return np.array([segments.scalars[name] for name in names], np.float64)

    def _folded(self, sums: npt.NDArray[np.float64], cut: Cut) -> dict[str, npt.NDArray[np.float64]]:
        if not self.program.reductions:
            return {}
        totals = np.zeros((len(sums), len(cut.ends)))
        self.fold(sums, cut.firsts, totals)
        return {r.name: totals[i] for i, r in enumerate(self.program.reductions)}


def _passed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a kernel takes for an array of ``dtype``."""
    return np.dtype(np.uint16) if dtype in (FLOAT16, BFLOAT16) else dtype


def _bits(array: npt.NDArray[Any], dtype: np.dtype[Any], passed: np.dtype[Any]) -> npt.NDArray[Any]:
    """``array`` as a kernel takes it."""
    if array.dtype != dtype:
        raise TypeError(f"an array is {array.dtype}, but the kernel was compiled for {dtype}")
    return array if passed is dtype else array.view(passed)


class NumbaBackend:
    """Compiled loops on the host; a `Backend`.

    Args:
        threads: how many threads work on a large call; all cores if None.
    """

    name = "numba"
    array_module: Any = np

    def __init__(self, threads: int | None = None) -> None:
        self._workers = Workers(threads)
        self._kernels: dict[object, NumbaKernel] = {}
        self._compiling = threading.Lock()
        self._made_up_left = MADE_UP
        self._fallback = NumpyBackend(threads)
        self._fold = _compile(runtime_source(), "fold_blocks", types.void(TABLE, INTEGERS, SUMS))
        self.device = f"CPU, {self._workers.threads} threads, Numba {numba.__version__}"

    def compile(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: Mapping[str, np.dtype[Any]],
        *,
        keep: bool = True,
    ) -> Kernel:
        """The kernel of a program; see `Backend`.

        LLVM never gives back the memory of what it compiled. So of the programs that are
        not to be kept only the first `MADE_UP` are compiled; NumPy runs the others.
        """
        dtype = np.dtype(dtype)
        key = program, dtype, dtypes(program, dtype, storage)
        if not keep:
            return self._made_up(key, storage)
        with self._compiling:
            if key not in self._kernels:
                self._kernels[key] = NumbaKernel(*key, self._workers, self._fold)
            return self._kernels[key]

    def _made_up(
        self,
        key: tuple[Program, np.dtype[Any], tuple[np.dtype[Any], ...]],
        storage: Mapping[str, np.dtype[Any]],
    ) -> Kernel:
        """The kernel of a program that a caller made up."""
        with self._compiling:
            self._made_up_left -= 1
            if self._made_up_left < 0:
                return self._fallback.compile(key[0], key[1], storage, keep=False)
        return NumbaKernel(*key, self._workers, self._fold, keep=False)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> HostArray:
        """A new array; see `Backend`."""
        return np.full(size, value, dtype)

    def from_host(self, array: HostArray) -> HostArray:
        """``array`` itself."""
        return array

    def to_host(self, array: HostArray) -> HostArray:
        """``array`` itself."""
        return array
