"""Backend for programs of callers' formulas, with a cache of the most recently used kernels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Array, Backend, HostArray, Kernel, Mirror
from optserve_server.arrays.program import Program


class RecentKernels:
    """A `Backend` that compiles on another one.

    Args:
        backend: where the kernels run.
        capacity: how many are kept.
    """

    def __init__(self, backend: Backend, capacity: int) -> None:
        self.name, self.device, self.array_module = backend.name, backend.device, backend.array_module
        self.brief = backend.brief
        self._backend = backend
        self._capacity = capacity
        self._kernels: OrderedDict[object, Kernel] = OrderedDict()
        self._lock = threading.Lock()

    def compile(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: Mapping[str, np.dtype[Any]],
        *,
        keep: bool = True,
    ) -> Kernel:
        """The kernel of a program; see `Backend`. Kept as long as it is among the last."""
        key = program, np.dtype(dtype), tuple(sorted((name, np.dtype(t)) for name, t in storage.items()))
        with self._lock:
            kernel = self._kernels.get(key)
            if kernel is not None:
                self._kernels.move_to_end(key)
                return kernel
        # Not under the lock: while one formula is compiled, the others go on.
        kernel = self._backend.compile(program, dtype, storage, keep=False)
        if keep:
            with self._lock:
                self._kernels[key] = kernel
                while len(self._kernels) > self._capacity:
                    self._kernels.popitem(last=False)
        return kernel

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """New bytes on the host; see `Backend`."""
        return self._backend.host_buffer(byte_count)

    def mirror(self, array: HostArray) -> Mirror:
        """The place on the device for an array; see `Backend`."""
        return self._backend.mirror(array)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        """A new array; see `Backend`."""
        return self._backend.full(size, value, dtype)

    def from_host(self, array: HostArray) -> Array:
        """``array`` on the device; see `Backend`."""
        return self._backend.from_host(array)

    def to_host(self, array: Array) -> HostArray:
        """``array`` on the host; see `Backend`."""
        return self._backend.to_host(array)
