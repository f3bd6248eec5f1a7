"""What sessions know of the machine that computes: one protocol."""

from __future__ import annotations

import dataclasses
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


class Kernel(Protocol):
    """A compiled program."""

    def __call__(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Runs the program over whole arrays, in place.

        Args:
            arrays: an array for each of the program's, all of one length. Those that
                the program stores to are written in place; no two may overlap.
            scalars: a float64 number for each of the program's scalars; it is rounded
                to the compute dtype once, before the pass.
            segments: the cut, needed where the program has segment scalars; without
                one the whole call is one segment.

        Returns:
            For each reduction its float64 sums, one per segment.
        """


class Backend(Protocol):
    """A place where arrays live and programs run."""

    name: str
    """numpy, numba or cupy."""

    device: str
    """The device in words."""

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
                as whoever asked for it holds it.
        """

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        """A new array of ``size`` elements, all ``value``."""

    def from_host(self, array: HostArray) -> Array:
        """``array`` on the device: itself where the device is the host."""

    def to_host(self, array: Array) -> HostArray:
        """``array`` on the host: itself where the device is the host."""
