"""Where arrays live and programs are compiled."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Array, HostArray, Kernel
from optserve_server.arrays.program import Program
from optserve_server.arrays.source_generation import storage_dtypes


class DeviceCopy:
    """A host array's place on the device: the array itself where the device is the host.

    Attributes:
        array: what kernels take.
    """

    def __init__(self, array: Array) -> None:
        self.array = array

    def copy_to_device(self, start: int, stop: int) -> None:
        """Starts to copy elements to the device. Kernels called later see them."""

    def copy_to_host(self, start: int, stop: int) -> None:
        """Starts to copy elements to the host, as the kernels called so far leave them."""

    def wait(self) -> None:
        """Returns when what was to be fetched is there."""


class Backend(ABC):
    """A place where arrays live and programs run: the host, unless a subclass says otherwise.

    Attributes:
        name: numpy, numba or cupy.
        brief: elements that a pass takes a small part of a millisecond for.
        array_module: NumPy or CuPy: what shaped arrays are computed with.
        device: the device in words.
    """

    name: ClassVar[str]
    brief: ClassVar[int]
    array_module: Any = np
    device: str

    def __init__(self) -> None:
        self._kernels: dict[object, Kernel] = {}
        self._compiling = threading.Lock()

    @abstractmethod
    def new_kernel(
        self, program: Program, dtype: np.dtype[Any], storage: tuple[np.dtype[Any], ...], keep: bool
    ) -> Kernel:
        """Compiles a program; the arguments are those of `compile`, with the dtype of every array."""

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
        dtype = np.dtype(dtype)
        key = program, dtype, storage_dtypes(program, dtype, storage)
        if not keep:
            return self.new_kernel(*key, keep)
        known = self._kernels.get(key)
        if known is not None:  # found without waiting for what is being compiled
            return known
        with self._compiling:
            if key not in self._kernels:
                self._kernels[key] = self.new_kernel(*key, keep)
            return self._kernels[key]

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """New bytes on the host, not set, in memory that travels to the device fast."""
        return np.empty(byte_count, np.uint8)

    def make_device_copy(self, array: HostArray) -> DeviceCopy:
        """The place on the device for what is in ``array``, for as long as it is used."""
        return DeviceCopy(array)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        """A new array of ``size`` elements, all ``value``."""
        return np.full(size, value, dtype)

    def from_host(self, array: HostArray) -> Array:
        """``array`` on the device: itself where the device is the host."""
        return array

    def to_host(self, array: Array) -> HostArray:
        """``array`` on the host: itself where the device is the host."""
        host: HostArray = array
        return host
