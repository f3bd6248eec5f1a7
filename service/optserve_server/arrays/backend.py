"""Protocol of a compute backend, as sessions use it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.program import Program

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

NONE: Mapping[str, Any] = types.MappingProxyType({})
"""No arrays, or no numbers of segments."""


class Pass(Protocol):
    """Incremental execution of a kernel over the elements of one call.

    A pass keeps its numbers and sums to itself, so several may be under way at once.
    """

    def advance(self, stop: int) -> None:
        """Computes the elements that come before ``stop``, as far as it has not yet.

        Where the program reduces, elements of a block of sums wait for the whole block,
        so an element may still be read until `end`.

        Args:
            stop: not less than it was before, at most the call's length.
        """

    def end(self) -> Sums:
        """Computes what is left, and returns the sums: the bits of one undivided call."""


class Bound(Protocol):
    """A kernel bound to arrays, called in every step.

    What depends on the arrays alone was done when it was bound, so a call costs
    microseconds. One call at a time; passes are independent of each other.
    """

    def __call__(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, npt.NDArray[np.float64]] = NONE,
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

    def totals(self, scalars: Mapping[str, float]) -> Mapping[str, float]:
        """The same where every array was bound, to one segment, so that the sums are numbers.

        What small steps are made of: no array is made or looked at.
        """

    def begin(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, npt.NDArray[np.float64]] = NONE,
    ) -> Pass:
        """The same in pieces, as elements arrive or are wanted. Computes nothing yet."""


class Kernel(Protocol):
    """A compiled program.

    An element's loads come before its stores. A program may therefore store to an array
    that it loads, in another meaning: the new parameter to the gradient's array, say. Two
    names must never stand for overlapping arrays.
    """

    def bind(
        self, arrays: Mapping[str, Array], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> Bound:
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


class Mirror(Protocol):
    """Device copy of a host array; the array itself if the device is the host.

    Attributes:
        array: what kernels take.
    """

    array: Array

    def send(self, start: int, stop: int) -> None:
        """Starts to copy elements to the device. Kernels called later see them."""

    def fetch(self, start: int, stop: int) -> None:
        """Starts to copy elements to the host, as the kernels called so far leave them."""

    def wait(self) -> None:
        """Returns when what was to be fetched is there."""


class Here:
    """The `Mirror` of a host array if the device is the host."""

    def __init__(self, array: HostArray) -> None:
        self.array: Array = array

    def send(self, start: int, stop: int) -> None:
        """Nothing to do."""

    def fetch(self, start: int, stop: int) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to do."""


class Backend(Protocol):
    """A device that holds arrays and runs programs."""

    name: str
    """numpy, numba or cupy."""

    device: str
    """The device in words."""

    brief: int
    """Elements that a pass takes a small part of a millisecond for."""

    array_module: Any
    """NumPy or CuPy: what shaped arrays are computed with."""

    def compile(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: Mapping[str, np.dtype[Any]],
        *,
        keep: bool = True,
    ) -> Kernel:
        """Compiles a program, or returns the kernel that it compiled before.

        Args:
            program: the program.
            dtype: the compute dtype, float32 or float64.
            storage: the dtype of each array that is stored in another one: float16,
                `ml_dtypes.bfloat16`, float32 or float64. Loads convert to the compute
                dtype, stores round to nearest even.
            keep: whether the backend keeps the kernel. False for programs that callers
                make up, which would pile up without an end: such a kernel lives as long
                as its caller holds it.
        """

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """New bytes on the host, not set, in memory that travels to the device fast."""

    def mirror(self, array: HostArray) -> Mirror:
        """The place on the device for what is in ``array``, for as long as it is used."""

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        """A new array of ``size`` elements, all ``value``."""

    def from_host(self, array: HostArray) -> Array:
        """``array`` on the device: itself where the device is the host."""

    def to_host(self, array: Array) -> HostArray:
        """``array`` on the host: itself where the device is the host."""
