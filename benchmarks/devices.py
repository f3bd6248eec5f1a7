"""A GPU, or the host in its place, so that the same code runs on a machine without a GPU."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numpy_blocked import NumpyBackend

Host = npt.NDArray[np.float32]


class Device(Protocol):
    """What is measured on.

    Attributes:
        backend: the server's executor there.
        torch: torch's name for it.
    """

    backend: Backend
    torch: str

    def zeros(self, n: int) -> Any:
        """An array of float32 there."""

    def copy(self, source: Any, target: Any) -> None:
        """Copies one such array to another."""

    def allocate_pinned(self, n: int) -> Host:
        """An array on the host that the bus reads and writes without a detour."""

    def up(self, source: Host, target: Any) -> None:
        """Copies from the host to it."""

    def down(self, source: Any, target: Host) -> None:
        """Copies from it to the host."""

    def wait(self) -> None:
        """Waits until everything asked for is done."""


class Gpu:
    """The current CUDA device."""

    torch = "cuda"

    def __init__(self) -> None:
        import cupy

        from optserve_server.arrays.cupy_fused import CupyBackend

        self._cupy = cupy
        self.backend: Backend = CupyBackend()

    def zeros(self, n: int) -> Any:
        return self._cupy.zeros(n, np.float32)

    def copy(self, source: Any, target: Any) -> None:
        self._cupy.copyto(target, source)

    def allocate_pinned(self, n: int) -> Host:
        memory = self._cupy.cuda.alloc_pinned_memory(4 * n)
        array: Host = np.frombuffer(memory, np.float32, n)
        array.fill(0)
        return array

    def up(self, source: Host, target: Any) -> None:
        target.set(source)

    def down(self, source: Any, target: Host) -> None:
        source.get(out=target)

    def wait(self) -> None:
        self._cupy.cuda.Device().synchronize()


class HostAsDevice:
    """The host, for a dry run."""

    torch = "cpu"

    def __init__(self) -> None:
        self.backend: Backend = NumpyBackend()

    def zeros(self, n: int) -> Any:
        return np.zeros(n, np.float32)

    def copy(self, source: Any, target: Any) -> None:
        np.copyto(target, source)

    def allocate_pinned(self, n: int) -> Host:
        return np.zeros(n, np.float32)

    def up(self, source: Host, target: Any) -> None:
        np.copyto(target, source)

    def down(self, source: Any, target: Host) -> None:
        np.copyto(target, source)

    def wait(self) -> None:
        return
