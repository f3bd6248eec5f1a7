"""Executor with Numba: one fused, compiled loop per program."""

from __future__ import annotations

import contextlib
import operator
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, cast

import llvmlite
import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from numba import types

from optserve_server.arrays import numba_runtime, source_cache
from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import BoundKernel, HostArray, Kernel, Pass, SingleSegmentRun, Sums
from optserve_server.arrays.numba_source import CUT, numba_source, runtime_source
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import Floats
from optserve_server.arrays.workers import SMALLEST_SPLIT, Workers

# A loop over many arrays compares each with each for overlap before it runs vectorised;
# above its usual limit of 8 comparisons LLVM gives up and runs it one by one.
LLVM_OPTION = "-runtime-memory-check-threshold=128"
llvmlite.binding.set_option("optserve", LLVM_OPTION)

OPTIONS: Mapping[str, Any] = {"nogil": True, "error_model": "numpy"}
"""What Numba is asked to do differently for every kernel."""

BUILD = f"# {OPTIONS}, {LLVM_OPTION}, llvmlite {llvmlite.__version__}\n"
"""First line of a kernel's file. Numba's disk cache asks for the file's text, the version of Numba and
the processor; the file's text, and so its name, says what else the compiled code depends on.
"""

Compiled = Callable[..., None]

NOTHING: Mapping[str, float] = {}

MADE_UP = 256
"""Programs that callers make up that are compiled, at one to three megabytes each."""


def _array_type(dtype: Any, dimensions: int, readonly: bool) -> Any:
    """An argument type that every array fits: unaligned ones, and read-only if so said."""
    return types.Array(dtype, dimensions, "C", readonly=readonly, aligned=False)


INTEGERS = _array_type(types.int64, 1, True)
TABLE = _array_type(types.float64, 2, True)
SUMS = _array_type(types.float64, 2, False)
SIGNATURE = types.void(types.int64, types.int64, INTEGERS)


def _compile_cached(source: str, function: str, signature: Any) -> Compiled:
    """Compiles now, from the disk cache if it can: a call never compiles."""
    module, cacheable = source_cache.load_module(BUILD + source)
    return _compile_source(module, function, signature, cacheable)


def _compile_uncached(source: str, function: str, signature: Any) -> Compiled:
    """Compiles now what is not to be kept on disk; ``source`` has no runtime of its own."""
    module = source_cache.compile_module(source, vars(numba_runtime))
    return _compile_source(module, function, signature, cacheable=False)


def _compile_source(module: ModuleType, function: str, signature: Any, cacheable: bool) -> Compiled:
    body = getattr(module, function)
    body = getattr(body, "py_func", body)
    if cacheable:
        # A cache that cannot be written, or holds nonsense, is no reason to fail; an error
        # of the compiler itself comes again below.
        with contextlib.suppress(Exception):
            cached: Compiled = numba.njit([signature], cache=True, **OPTIONS)(body)
            return cached
    compiled: Compiled = numba.njit([signature], **OPTIONS)(body)
    return compiled


def _get_entry_point(dispatcher: Any) -> Compiled:
    """What a dispatcher calls: one with a single signature has nothing to look up."""
    (compiled,) = dispatcher.overloads.values()
    entry: Compiled = compiled.entry_point
    return entry


class NumbaKernel(Kernel):
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
        storage: tuple[np.dtype[Any], ...],
        workers: Workers,
        fold: Compiled,
        keep: bool = True,
    ) -> None:
        super().__init__(program, storage)
        self.workers, self.fold = workers, fold
        self.pack = struct.Struct(f"{len(program.scalars)}d").pack_into
        self.get_scalars = make_scalar_getter(program.scalars)
        source = numba_source(program, dtype, storage, whole=keep)
        self.compiled = (_compile_cached if keep else _compile_uncached)(source, "kernel", SIGNATURE)
        self.entry = _get_entry_point(self.compiled)

    def bind(
        self, arrays: Mapping[str, HostArray], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> NumbaBoundKernel:
        """Checks arrays for many calls; see `Kernel`."""
        return NumbaBoundKernel(self, arrays, size, ends)

    def make_pass(self, bound: BoundKernel) -> NumbaPass:
        """A pass over the arrays of ``bound``."""
        return NumbaPass(self, cast(NumbaBoundKernel, bound))


class NumbaBoundKernel(BoundKernel):
    """A compiled kernel and arrays; a `BoundKernel`.

    Attributes:
        table: the addresses that all passes share.
    """

    def __init__(
        self,
        kernel: NumbaKernel,
        arrays: Mapping[str, HostArray],
        size: int,
        ends: npt.NDArray[np.int64] | None,
    ) -> None:
        super().__init__(kernel, arrays, size, ends)
        cut, names = self.blocks, kernel.program.arrays
        self.table = np.zeros(CUT + len(names), np.int64)
        self.table[:4] = [*map(array_address, (cut.starts, cut.ends, cut.firsts)), len(cut.ends)]
        self.table[7] = cut.block_count
        for name, array in self.arrays.items():
            self.table[CUT + names.index(name)] = array_address(array)

    def make_single_segment_run(self) -> SingleSegmentRun:
        """A function that runs the program; see `BoundKernel`."""
        if self.size >= SMALLEST_SPLIT:
            return super().make_single_segment_run()
        made = self.kernel.make_pass(self)
        assert isinstance(made, NumbaPass)
        return made.make_single_thread_run()


class NumbaPass(Pass):
    """A pass of a compiled kernel: a table of addresses, and the numbers and sums it leads to."""

    def __init__(self, kernel: NumbaKernel, bound: NumbaBoundKernel) -> None:
        super().__init__(bound)
        self.kernel = kernel
        program, segments = self.program, len(self.blocks.ends)
        scalars = len(program.scalars)
        first_sum = scalars + len(program.segment_scalars) * segments
        numbers = np.zeros(first_sum + len(program.reductions) * self.blocks.block_count)
        self._packed = numbers[:scalars].data
        self._runs = numbers[scalars:first_sum].reshape(-1, segments)
        self._sums = numbers[first_sum:].reshape(len(program.reductions), self.blocks.block_count)
        self._table = bound.table.copy()
        self._table[4:7] = array_address(numbers) + numbers.itemsize * np.array([0, scalars, first_sum])
        self._missing = [(name, CUT + program.arrays.index(name)) for name in bound.missing]
        self._last: dict[str, Callable[[], object]] = dict.fromkeys(bound.missing, lambda: None)

    def set_arguments(
        self, scalars: Mapping[str, float], arrays: Mapping[str, HostArray], of_segments: Mapping[str, Floats]
    ) -> None:
        """Takes a call's numbers and arrays; see `Pass`."""
        self.done = 0
        self.kernel.pack(self._packed, 0, *self.kernel.get_scalars(scalars))
        for name, entry in self._missing:
            array = arrays[name]
            if self._last[name]() is not array:  # a session's buffers are filled again and again
                self._table[entry] = array_address(self.bound.check_array(name, array))
                self._last[name] = weakref.ref(array)
        for row, name in enumerate(self.program.segment_scalars):
            self._runs[row] = of_segments[name]

    def make_single_thread_run(self) -> SingleSegmentRun:
        """What runs the whole pass in the caller's thread, where every array was bound to one segment.

        Each name that it needs is looked up here, once.
        """
        pack, pick, packed = self.kernel.pack, self.kernel.get_scalars, self._packed
        entry, fold, table = self.kernel.entry, self.kernel.fold, self._table
        sums, firsts, totals = self._sums, self.blocks.firsts, np.empty((len(self._sums), 1))
        names, numbers = [r.name for r in self.program.reductions], totals.reshape(-1)
        end = self.blocks.block_at(self.size) if names else self.size
        has_scalars = bool(self.program.scalars)

        def run(scalars: Mapping[str, float]) -> Mapping[str, float]:
            if has_scalars:
                pack(packed, 0, *pick(scalars))
            entry(0, end, table)
            if not names:
                return NOTHING
            fold(sums, firsts, totals)
            return dict(zip(names, numbers.tolist(), strict=True))

        return run

    def release_arrays(self) -> None:
        """Lets go of arrays, of which it knows only the addresses; see `Pass`."""

    def compute(self, low: int, high: int, least: int = SMALLEST_SPLIT) -> None:
        """Computes elements; see `Pass`."""
        workers = self.kernel.workers
        marks = [low, high] if high - low < least else workers.split_points(low, high, least)
        if self.program.reductions:
            marks = [self.blocks.block_at(mark) for mark in marks]
        if len(marks) == 2:
            self.kernel.entry(*marks, self._table)
        else:
            workers.run(self._run_elements, marks)

    def _run_elements(self, low: int, high: int) -> None:
        self.kernel.entry(low, high, self._table)

    def fold_sums(self) -> Sums:
        """The sums of all elements."""
        totals = np.empty((len(self._sums), len(self.blocks.ends)))
        self.kernel.fold(self._sums, self.blocks.firsts, totals)
        return {r.name: totals[i] for i, r in enumerate(self.program.reductions)}


def make_scalar_getter(names: Sequence[str]) -> Callable[[Mapping[str, float]], Sequence[float]]:
    """What picks the numbers of these names, in this order."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    if not names:
        return lambda _: ()
    (name,) = names
    return lambda numbers: (numbers[name],)


def array_address(array: HostArray) -> int:
    """Where an array's elements lie."""
    where: int = array.__array_interface__["data"][0]
    return where


class NumbaBackend(Backend):
    """Compiled loops on the host; a `Backend`.

    Args:
        threads: how many threads work on a large call; all cores if None.
    """

    name = "numba"
    brief = 1 << 20

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        self._workers = Workers(threads)
        self._made_up_left = MADE_UP
        self._fallback = NumpyBackend(threads)
        self._folding = _compile_cached(runtime_source(), "fold_blocks", types.void(TABLE, INTEGERS, SUMS))
        self._fold = _get_entry_point(self._folding)
        self.device = f"CPU, {self._workers.threads} threads, Numba {numba.__version__}"

    def new_kernel(
        self, program: Program, dtype: np.dtype[Any], storage: tuple[np.dtype[Any], ...], keep: bool
    ) -> Kernel:
        """Compiles a program; see `Backend`.

        LLVM never releases the memory of compiled code. So of the programs that are not
        kept only the first `MADE_UP` are compiled; NumPy runs the others.
        """
        if not keep:
            with self._compiling:
                self._made_up_left -= 1
                exhausted = self._made_up_left < 0
            if exhausted:
                return self._fallback.new_kernel(program, dtype, storage, keep)
        return NumbaKernel(program, dtype, storage, self._workers, self._fold, keep)
