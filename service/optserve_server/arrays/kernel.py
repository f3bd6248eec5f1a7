"""Compiled programs: arrays checked once, and passes over them in pieces."""

from __future__ import annotations

import abc
import dataclasses
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import Floats, make_segment_blocks
from optserve_server.arrays.source_generation import find_stores
from optserve_server.arrays.workers import SMALLEST_PIECE, SMALLEST_SPLIT

Array: TypeAlias = Any
"""A one-dimensional contiguous array of the backend: NumPy's or CuPy's."""

HostArray: TypeAlias = npt.NDArray[Any]
"""A one-dimensional contiguous NumPy array; need not be aligned or writable."""


@dataclasses.dataclass(frozen=True)
class Segments:
    """A cut of a call's elements into runs, such as tensors.

    Attributes:
        ends: where each segment ends (int64, strictly increasing); the last is the
            call's length. The first segment starts at 0.
        scalars: for each of the program's segment scalars, a float64 array with one
            number per segment.
    """

    ends: npt.NDArray[np.int64]
    scalars: Mapping[str, npt.NDArray[np.float64]] = dataclasses.field(default_factory=dict)


Sums: TypeAlias = dict[str, npt.NDArray[np.float64]]
"""For each of a program's reductions its float64 sums, one per segment."""

SingleSegmentRun: TypeAlias = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Takes a program's scalars and returns its sums, by name."""

NONE: Mapping[str, Any] = types.MappingProxyType({})
"""No arrays, or no numbers of segments."""


class Kernel(abc.ABC):
    """A compiled program.

    An element's loads come before its stores. A program may therefore store to an array
    that it loads, in another meaning: the new parameter to the gradient's array, say. Two
    names must never stand for overlapping arrays.

    Args:
        program: the program.
        dtypes: the storage dtype of each of its arrays.
    """

    def __init__(self, program: Program, dtypes: tuple[np.dtype[Any], ...]) -> None:
        self.program = program
        self.dtypes = dict(zip(program.arrays, dtypes, strict=True))
        self.stored = find_stores(program)

    @abc.abstractmethod
    def make_pass(self, bound: BoundKernel) -> Pass:
        """A pass over the arrays of ``bound``, without numbers as yet."""

    def bind(
        self, arrays: Mapping[str, Array], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> BoundKernel:
        """Checks arrays once for many calls.

        Args:
            arrays: some or all of the program's arrays, and maybe others; the rest is given
                with each call.
            size: how many elements each array has.
            ends: the segments' ends; see `Segments`. None for one segment.

        Raises:
            TypeError: an array has another dtype than the kernel was compiled for.
            ValueError: an array is not contiguous, or lengths differ.
        """
        return BoundKernel(self, arrays, size, ends)

    def __call__(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> Sums:
        """Runs the program over whole arrays once, in place.

        Args:
            arrays: an array for each of the program's, all of one length. Those that
                the program stores to are written in place.
            scalars: a float64 number for each of the program's scalars; it is rounded
                to the compute dtype once, before the pass.
            segments: the cut, needed where the program has segment scalars; without
                one the whole call is one segment.

        Returns:
            For each reduction its float64 sums, one per segment.
        """
        size = len(arrays[self.program.arrays[0]]) if self.program.arrays else 0
        if segments is None:
            return self.bind(arrays, size)(scalars)
        return self.bind(arrays, size, segments.ends)(scalars, of_segments=segments.scalars)


class BoundKernel:
    """A kernel and arrays to run it over: what a session calls step by step.

    What depends on the arrays alone was done when it was bound, so a call costs
    microseconds. One call at a time; passes are independent of each other. See
    `Kernel.bind` for the arguments.
    """

    def __init__(
        self, kernel: Kernel, arrays: Mapping[str, Array], size: int, ends: npt.NDArray[np.int64] | None
    ) -> None:
        self.kernel, self.size = kernel, size
        self.blocks = make_segment_blocks(size, ends)
        names = kernel.program.arrays
        self.arrays = {name: self.check_array(name, arrays[name]) for name in names if name in arrays}
        self.missing = tuple(name for name in names if name not in arrays)
        self._pass: Pass | None = None

    def __call__(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> Sums:
        """Runs the program over all elements, in place.

        Args:
            scalars: a number for each of the program's scalars, and maybe others; it is
                rounded to the compute dtype once, before the pass.
            arrays: those that it was not bound to.
            of_segments: for each of the program's segment scalars one number per segment.

        Returns:
            For each reduction its float64 sums, one per segment.
        """
        if self._pass is None:
            # A reference back would keep what a session held until the garbage collector comes.
            self._pass = self.kernel.make_pass(cast(BoundKernel, weakref.proxy(self)))
        self._pass.set_arguments(scalars, arrays, of_segments)
        sums = self._pass.finish()
        self._pass.release_arrays()
        return sums

    def make_single_segment_run(self) -> SingleSegmentRun:
        """The same as a function, where every array was bound, to one segment, so that sums are numbers.

        What small steps are made of: no array is made or looked at. It must not outlive the kernel.
        """
        return lambda scalars: {name: float(sums[0]) for name, sums in self(scalars).items()}

    def start_pass(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> Pass:
        """The same in pieces, as elements arrive or are wanted. Computes nothing yet."""
        new = self.kernel.make_pass(self)
        new.set_arguments(scalars, arrays, of_segments)
        new.held = arrays
        return new

    def check_array(self, name: str, array: Array) -> Array:
        """``array`` as the kernel takes it: compiled kernels look at nothing but its address."""
        dtype = self.kernel.dtypes[name]
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype}, but the kernel was compiled for {dtype}")
        if array.shape != (self.size,):
            raise ValueError("arrays and segments differ in length")
        flags = array.flags
        writeable = getattr(flags, "writeable", True)  # CuPy's arrays always are
        if not flags.c_contiguous or not (writeable or name not in self.kernel.stored):
            raise ValueError(f"{name} is not contiguous, or is to be written and cannot be")
        return array


class Pass(abc.ABC):
    """A kernel on its way over the elements of one call, from the first to the last.

    A pass keeps its numbers and sums to itself, so several may be under way at once.

    Attributes:
        held: arrays that must live as long as the pass.
    """

    def __init__(self, bound: BoundKernel) -> None:
        self.bound, self.size, self.blocks = bound, bound.size, bound.blocks
        self.program = bound.kernel.program
        self.done = 0
        self.held: Mapping[str, Array] = NONE

    @abc.abstractmethod
    def set_arguments(
        self, scalars: Mapping[str, float], arrays: Mapping[str, Array], of_segments: Mapping[str, Floats]
    ) -> None:
        """Takes a call's numbers and the arrays that were not bound, and goes to the start."""

    @abc.abstractmethod
    def release_arrays(self) -> None:
        """Lets go of the arrays that `set_arguments` took."""

    @abc.abstractmethod
    def compute(self, low: int, high: int, least: int = SMALLEST_SPLIT) -> None:
        """Computes the elements from ``low`` to before ``high``; whole blocks where it reduces.

        Args:
            low: the first.
            high: the end.
            least: how many there must be for more than one thread.
        """

    @abc.abstractmethod
    def fold_sums(self) -> Sums:
        """The sums of all elements."""

    def compute_until(self, stop: int) -> None:
        """Computes the elements that come before ``stop``, as far as it has not yet.

        Where the program reduces, elements of a block of sums wait for the whole block,
        so an element may still be read until `finish`.

        Args:
            stop: not less than it was before, at most the call's length.
        """
        high = self.blocks.block_start(stop) if self.program.reductions else stop
        if high > self.done:
            self.compute(self.done, high, SMALLEST_PIECE)
            self.done = high

    def finish(self) -> Sums:
        """Computes what is left, and returns the sums: the bits of one undivided call."""
        if self.done < self.size:
            self.compute(self.done, self.size)
            self.done = self.size
        return self.fold_sums() if self.program.reductions else {}
