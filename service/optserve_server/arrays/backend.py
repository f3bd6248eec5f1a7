"""Where arrays live and programs are compiled: one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Array, HostArray, Kernel
from optserve_server.arrays.program import Program


class Mirror(Protocol):
    """A host array's place on the device: the array itself where the device is the host.

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
    """The `Mirror` of a host array where the device is the host."""

    def __init__(self, array: HostArray) -> None:
        self.array: Array = array

    def send(self, start: int, stop: int) -> None:
        """Nothing to do."""

    def fetch(self, start: int, stop: int) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to do."""


class HostMemory:
    """The arrays of a `Backend` whose device is the host."""

    array_module: Any = np

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """New bytes; see `Backend`."""
        return np.empty(byte_count, np.uint8)

    def mirror(self, array: HostArray) -> Here:
        """``array`` itself."""
        return Here(array)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> HostArray:
        """A new array; see `Backend`."""
        return np.full(size, value, dtype)

    def from_host(self, array: HostArray) -> HostArray:
        """``array`` itself."""
        return array

    def to_host(self, array: HostArray) -> HostArray:
        """``array`` itself."""
        return array


class Backend(Protocol):
    """A place where arrays live and programs run."""

    name: str
    """numpy, numba or cupy."""

    device: str
    """The device in words."""

    brief: int
    """Elements that a pass takes a small part of a millisecond for."""

    array_module: Any
    """NumPy or CuPy: what shaped arrays are computed with."""

    def __hash__(self) -> int:
        """A backend is itself alone."""

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
