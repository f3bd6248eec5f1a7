"""Common parts of executors on the host: checks of arrays, and incremental passes."""

from __future__ import annotations

import abc
import weakref
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import NONE, HostArray, Segments, Sums
from optserve_server.arrays.emission import find_stores
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import cut_of
from optserve_server.arrays.workers import SMALLEST_PIECE, SMALLEST_SPLIT

Floats = npt.NDArray[np.float64]


class HostKernel(abc.ABC):
    """A `Kernel` on the host.

    Args:
        program: the program.
        dtypes: the storage dtype of each of its arrays.
    """

    def __init__(self, program: Program, dtypes: tuple[np.dtype[Any], ...]) -> None:
        self.program = program
        self.dtypes = dict(zip(program.arrays, dtypes, strict=True))
        self.stored = find_stores(program)

    @abc.abstractmethod
    def start(self, bound: HostBound) -> HostPass:
        """A pass over the arrays of ``bound``, without numbers as yet."""

    def bind(
        self, arrays: Mapping[str, HostArray], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> HostBound:
        """Checks arrays for many calls; see `Kernel`."""
        return HostBound(self, arrays, size, ends)

    def __call__(
        self,
        arrays: Mapping[str, HostArray],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> Sums:
        """Runs the program once; see `Kernel`."""
        size = len(arrays[self.program.arrays[0]]) if self.program.arrays else 0
        if segments is None:
            return self.bind(arrays, size)(scalars)
        return self.bind(arrays, size, segments.ends)(scalars, of_segments=segments.scalars)


class HostBound:
    """A `Bound` on the host; see `Kernel.bind` for the arguments."""

    def __init__(
        self,
        kernel: HostKernel,
        arrays: Mapping[str, HostArray],
        size: int,
        ends: npt.NDArray[np.int64] | None,
    ) -> None:
        self.kernel, self.size = kernel, size
        self.cut = cut_of(size, ends)
        names = kernel.program.arrays
        self.arrays = {name: self.check_array(name, arrays[name]) for name in names if name in arrays}
        self.missing = tuple(name for name in names if name not in arrays)
        self._pass: HostPass | None = None

    def __call__(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, HostArray] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> Sums:
        """Runs the program; see `Bound`."""
        if self._pass is None:
            # A reference back would keep what a session held until the garbage collector comes.
            self._pass = self.kernel.start(cast(HostBound, weakref.proxy(self)))
        self._pass.fill(scalars, arrays, of_segments)
        sums = self._pass.end()
        self._pass.forget()
        return sums

    def totals(self, scalars: Mapping[str, float]) -> Mapping[str, float]:
        """Runs the program; see `Bound`."""
        return {name: float(sums[0]) for name, sums in self(scalars).items()}

    def begin(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, HostArray] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> HostPass:
        """Runs the program in pieces; see `Bound`."""
        new = self.kernel.start(self)
        new.fill(scalars, arrays, of_segments)
        new.held = arrays
        return new

    def check_array(self, name: str, array: HostArray) -> HostArray:
        """``array`` as the kernel takes it: compiled kernels look at nothing but its address."""
        dtype = self.kernel.dtypes[name]
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype}, but the kernel was compiled for {dtype}")
        if array.shape != (self.size,):
            raise ValueError("arrays and segments differ in length")
        flags = array.flags
        if not flags.c_contiguous or not (flags.writeable or name not in self.kernel.stored):
            raise ValueError(f"{name} is not contiguous, or is to be written and cannot be")
        return array


class HostPass(abc.ABC):
    """A `Pass` on the host.

    Attributes:
        held: arrays that must live as long as the pass.
    """

    def __init__(self, bound: HostBound) -> None:
        self.bound, self.size, self.cut = bound, bound.size, bound.cut
        self.program = bound.kernel.program
        self.done = 0
        self.held: Mapping[str, HostArray] = NONE

    @abc.abstractmethod
    def fill(
        self, scalars: Mapping[str, float], arrays: Mapping[str, HostArray], of_segments: Mapping[str, Floats]
    ) -> None:
        """Takes a call's numbers and the arrays that were not bound, and goes to the start."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Lets go of the arrays that `fill` took."""

    @abc.abstractmethod
    def compute(self, low: int, high: int, least: int = SMALLEST_SPLIT) -> None:
        """Computes the elements from ``low`` to before ``high``; whole blocks where it reduces.

        Args:
            low: the first.
            high: the end.
            least: how many there must be for more than one thread.
        """

    @abc.abstractmethod
    def sums(self) -> Sums:
        """The sums of all elements."""

    def advance(self, stop: int) -> None:
        """Computes the elements before ``stop``; see `Pass`."""
        high = self.cut.block_start(stop) if self.program.reductions else stop
        if high > self.done:
            self.compute(self.done, high, SMALLEST_PIECE)
            self.done = high

    def end(self) -> Sums:
        """Computes what is left; see `Pass`."""
        if self.done < self.size:
            self.compute(self.done, self.size)
            self.done = self.size
        return self.sums() if self.program.reductions else {}
