"""Executor with NumPy alone, always available: blocks that stay in the cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.kernel import BoundKernel, HostArray, Kernel, Pass, Sums
from optserve_server.arrays.narrow_floats import decode_narrow_floats, encode_narrow_floats
from optserve_server.arrays.ops import NUMPY
from optserve_server.arrays.program import (
    Constant,
    Load,
    Op,
    Operand,
    Program,
    ReductionKind,
    Result,
    Scalar,
    SegmentScalar,
)
from optserve_server.arrays.reductions import (
    BLOCK,
    LANES,
    Floats,
    SegmentBlocks,
    compute_summands,
    fold_blocks,
    sum_blocks,
    sum_short_blocks,
)
from optserve_server.arrays.register_allocation import Bank, allocate_registers
from optserve_server.arrays.workers import SMALLEST_SPLIT, Workers

SPAN_BYTES = 1 << 19
"""Bytes of one register: a dozen of them stay in a core's cache."""

MANY = 8
"""Segments in a span from which they are summed all at once."""

NOTHING = np.zeros(0)
"""Stands for an array that is given with each call."""

Values = list[Any]
"""What the operands of a program are in one span, by their numbers."""


def _maximum(a: Any, b: Any, out: Any) -> None:
    _select_elements(np.greater(a, b) | np.not_equal(a, a), a, b, out)


def _minimum(a: Any, b: Any, out: Any) -> None:
    _select_elements(np.less(a, b) | np.not_equal(a, a), a, b, out)


def _select_elements(condition: Any, a: Any, b: Any, out: Any) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)


def _returns_second_if_equal(function: Callable[..., Any], dtype: npt.DTypeLike) -> bool:
    """Whether this machine's ``function`` returns its second argument where both are equal."""
    zeros = np.tile(np.array([0.0, -0.0], dtype), 33)
    return bool(np.array_equal(np.signbit(function(zeros, -zeros)), np.signbit(-zeros)))


def _choose_extremum_function(function: Callable[..., Any], exact: Callable[..., None]) -> Callable[..., Any]:
    """``function`` where it decides between 0.0 and -0.0 as `Ops` says, or ``exact``."""
    if all(_returns_second_if_equal(function, t) for t in (np.float32, np.float64)):
        return lambda a, b, out: function(a, b, out=out)
    return exact


FUNCTIONS: Mapping[Op, Callable[..., Any]] = {
    **NUMPY,
    Op.SELECT: _select_elements,
    Op.MAXIMUM: _choose_extremum_function(np.maximum, _maximum),
    Op.MINIMUM: _choose_extremum_function(np.minimum, _minimum),
}


class _Scratch:
    """The registers of one thread, each long enough for any span: floats, bools, then others."""

    def __init__(self, kernel: NumpyKernel) -> None:
        length, plan = kernel.span, kernel.plan
        self.registers = [np.empty(length, kernel.dtype) for _ in range(plan.floats)]
        self.registers += [np.empty(length, np.bool_) for _ in range(plan.bools)]
        others = len(kernel.loads) + len(kernel.program.segment_scalars)
        self.registers += [np.empty(length, kernel.dtype) for _ in range(others)]
        self.summands = np.zeros(length + LANES if kernel.program.reductions else 0)

    def slice_registers(self, length: int) -> list[npt.NDArray[Any]]:
        """The registers, as long as a span."""
        if self.registers and length < len(self.registers[0]):
            return [register[:length] for register in self.registers]
        return self.registers


class NumpyKernel(Kernel):
    """A program on NumPy arrays; a `Kernel`.

    Args:
        program: the program.
        dtype: the compute dtype.
        storage: the storage dtype of each of the program's arrays.
        workers: the threads to use.
        span: elements computed at a time; a multiple of `BLOCK`.

    Attributes:
        steps: for each instruction its function, where its operands and its result are
            among a span's values, and where it puts the result: the number of an array,
            or after those of a register.
    """

    def __init__(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: tuple[np.dtype[Any], ...],
        workers: Workers,
        span: int,
    ) -> None:
        super().__init__(program, storage)
        self.dtype, self.workers, self.span = dtype, workers, span
        plain = frozenset(name for name, of in self.dtypes.items() if of == dtype)
        self.plan = allocate_registers(program, plain)
        read = set(program.operands)
        self.loads = tuple(name for name in program.arrays if Load(name) in read)
        self.copied = frozenset(self.loads) - plain | self.plan.held
        self.slots = {x: i for i, x in enumerate(self._list_operands(read))}
        self.constants = [
            _round_to_array(x.value, dtype) if isinstance(x, Constant) else None for x in self.slots
        ]
        self.steps = [
            (
                FUNCTIONS[k.op],
                [self.slots[x] for x in k.operands],
                self.slots[Result(i)],
                self._result_index(i),
            )
            for i, k in enumerate(program.instructions)
        ]
        self._scratch: deque[_Scratch] = deque()

    def make_pass(self, bound: BoundKernel) -> NumpyPass:
        """A pass over the arrays of ``bound``."""
        return NumpyPass(self, bound)

    def _list_operands(self, read: set[Operand]) -> list[Operand]:
        results: list[Operand] = [Result(i) for i in range(len(self.program.instructions))]
        return results + [x for x in read if not isinstance(x, Result)]

    def _result_index(self, instruction: int) -> int:
        place = self.plan.results[instruction]
        arrays = len(self.program.arrays)
        before = {Bank.ARRAY: 0, Bank.FLOAT: arrays, Bank.BOOL: arrays + self.plan.floats}
        return before[place.bank] + place.number

    def acquire_scratch(self) -> _Scratch:
        """Registers that no other thread uses."""
        try:
            return self._scratch.pop()
        except IndexError:
            return _Scratch(self)

    def release_scratch(self, scratch: _Scratch) -> None:
        """Takes registers back."""
        self._scratch.append(scratch)


class NumpyPass(Pass):
    """A pass of a kernel, span by span."""

    def __init__(self, kernel: NumpyKernel, bound: BoundKernel) -> None:
        super().__init__(bound)
        self.kernel = kernel
        self._arrays = [bound.arrays.get(name, NOTHING) for name in self.program.arrays]
        self._values: Values = []
        self._runs: list[npt.NDArray[Any]] = []
        self._sums = np.zeros((len(self.program.reductions), self.blocks.block_count))

    def set_arguments(
        self, scalars: Mapping[str, float], arrays: Mapping[str, HostArray], of_segments: Mapping[str, Floats]
    ) -> None:
        """Takes a call's numbers and arrays; see `Pass`."""
        self.done = 0
        slots, dtype = self.kernel.slots, self.kernel.dtype
        self._values = list(self.kernel.constants)
        for name in self.program.scalars:
            self._values[slots[Scalar(name)]] = _round_to_array(scalars[name], dtype)
        for name in self.bound.missing:
            self._arrays[self.program.arrays.index(name)] = self.bound.check_array(name, arrays[name])
        self._runs = [of_segments[name].astype(dtype) for name in self.program.segment_scalars]

    def release_arrays(self) -> None:
        """Lets go of arrays; see `Pass`."""
        for name in self.bound.missing:
            self._arrays[self.program.arrays.index(name)] = NOTHING

    def compute(self, low: int, high: int, least: int = SMALLEST_SPLIT) -> None:
        """Computes elements; see `Pass`."""
        marks = self.kernel.workers.split_points(low, high, least)
        if self.program.reductions:
            marks = [self.blocks.block_start(mark) for mark in marks]
        self.kernel.workers.run(self._run_elements, marks)

    def fold_sums(self) -> Sums:
        """The sums of all elements."""
        rows = enumerate(self.program.reductions)
        return {r.name: fold_blocks(self._sums[i].copy(), self.blocks) for i, r in rows}

    def _run_elements(self, low: int, high: int) -> None:
        scratch = self.kernel.acquire_scratch()
        with np.errstate(all="ignore"):
            for start, stop in self._split_spans(low, high):
                self._compute_span(start, stop, scratch)
        self.kernel.release_scratch(scratch)

    def _split_spans(self, low: int, high: int) -> list[tuple[int, int]]:
        """Cuts into spans; at the start of each block if there are reductions."""
        spans = []
        while low < high:
            stop = min(low + self.kernel.span, high)
            if self.program.reductions and stop < high:
                stop = self.blocks.block_start(stop)
            spans.append((low, stop))
            low = stop
        return spans

    def _compute_span(self, start: int, stop: int, scratch: _Scratch) -> None:
        """Computes the elements from ``start`` to ``stop``."""
        kernel, values = self.kernel, self._values.copy()
        places = [array[start:stop] for array in self._arrays]
        places += scratch.slice_registers(stop - start)
        self._load_operands(values, places, start, stop)
        for function, inputs, output, place in kernel.steps:
            out = values[output] = places[place]
            function(*[values[slot] for slot in inputs], out)
        for row, reduction in zip(self._sums, self.program.reductions, strict=True):
            value = values[kernel.slots[reduction.operand]]
            if reduction.kind is ReductionKind.NON_FINITE_COUNT and np.isfinite(value).all():
                row[self.blocks.block_at(start) : self.blocks.block_at(stop)] = 0.0  # as nearly always
                continue
            compute_summands(reduction.kind, value, scratch.summands[: stop - start])
            _sum_span_blocks(scratch.summands, self.blocks, start, stop, row)
        for name, x in kernel.plan.copies:
            encode_narrow_floats(np.asarray(values[kernel.slots[x]]), places[self.program.arrays.index(name)])

    def _load_operands(self, values: Values, places: list[npt.NDArray[Any]], start: int, stop: int) -> None:
        """Adds what arrays hold, and segments have, to the values of a span."""
        kernel = self.kernel
        others = len(self._arrays) + kernel.plan.floats + kernel.plan.bools
        for register, name in enumerate(kernel.loads, others):
            view = places[self.program.arrays.index(name)]
            if name in kernel.copied or not view.flags.aligned:
                decode_narrow_floats(view, places[register])
                view = places[register]
            values[kernel.slots[Load(name)]] = view
        for register, name in enumerate(self.program.segment_scalars, others + len(kernel.loads)):
            run = self._runs[register - others - len(kernel.loads)]
            values[kernel.slots[SegmentScalar(name)]] = expand_segment_scalars(
                run, self.blocks, start, stop, places[register]
            )


def _round_to_array(value: float, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A number rounded to ``dtype``, as an array: NumPy's functions take it faster than a scalar."""
    with np.errstate(over="ignore"):
        return np.array(value, dtype)


def expand_segment_scalars(
    run: npt.NDArray[Any], cut: SegmentBlocks, start: int, stop: int, out: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The numbers of segments for the elements from ``start`` to ``stop``.

    One number if they all lie in one segment; otherwise written to ``out``.
    """
    first = int(np.searchsorted(cut.ends, start, side="right"))
    last = int(np.searchsorted(cut.ends, stop - 1, side="right"))
    if first == last:
        number: npt.NDArray[Any] = run[first]
        return number
    lows = np.maximum(cut.starts[first : last + 1], start)
    highs = np.minimum(cut.ends[first : last + 1], stop)
    np.copyto(out, np.repeat(run[first : last + 1], highs - lows))
    return out


def _sum_span_blocks(
    summands: npt.NDArray[np.float64], cut: SegmentBlocks, start: int, stop: int, out: npt.NDArray[np.float64]
) -> None:
    """Sums the blocks from element ``start`` to ``stop``, whose summands come first."""
    first, last = cut.block_at(start), cut.block_at(stop)
    low, segments = start, np.searchsorted(cut.ends, [start, stop - 1], side="right")
    if segments[1] - segments[0] >= MANY:
        starts, ends = cut.block_bounds(first, last)
        sum_short_blocks(summands, starts - start, ends - start, out[first:last])
        return
    for segment in range(segments[0], segments[1] + 1):
        high = min(int(cut.ends[segment]), stop)
        block = cut.block_at(low)
        sum_blocks(summands[low - start : high - start], out[block : cut.block_at(high)])
        low = high


class NumpyBackend(Backend):
    """NumPy on the host; a `Backend`.

    Args:
        threads: how many threads work on a large call; all cores if None.
        span_bytes: bytes of a register.
    """

    name = "numpy"
    brief = 1 << 17

    def __init__(self, threads: int | None = None, span_bytes: int = SPAN_BYTES) -> None:
        super().__init__()
        self._workers = Workers(threads)
        self._span_bytes = span_bytes
        self.device = f"CPU, {self._workers.threads} threads, NumPy {np.__version__}"

    def new_kernel(
        self, program: Program, dtype: np.dtype[Any], storage: tuple[np.dtype[Any], ...], keep: bool
    ) -> Kernel:
        span = max(self._span_bytes // dtype.itemsize // BLOCK, 1) * BLOCK
        return NumpyKernel(program, dtype, storage, self._workers, span)
