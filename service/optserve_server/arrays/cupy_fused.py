"""Executor for NVIDIA GPUs: one fused kernel per program."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend, DeviceCopy
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.kernel import Array, BoundKernel, HostArray, Kernel, Pass, Sums
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import LANES, Floats, SegmentBlocks, fold_blocks

THREADS = 256
"""Threads of a block where nothing is reduced."""

MOST_BLOCKS = 65_535
"""Blocks of a grid; threads stride over what is left."""


class CupyKernel(Kernel):
    """A program compiled for a GPU; a `Kernel`.

    Args:
        program: the program.
        dtype: the compute dtype.
        storage: the storage dtype of each of the program's arrays.
    """

    def __init__(
        self, program: Program, dtype: np.dtype[Any], storage: tuple[np.dtype[Any], ...]
    ) -> None:  # fmt: skip
        import cupy

        super().__init__(program, storage)
        self.compiled = cupy.RawKernel(cuda_source(program, dtype, storage), "kernel", options=OPTIONS)
        self.compiled.compile()

    def make_pass(self, bound: BoundKernel) -> CupyPass:
        """A pass over the arrays of ``bound``."""
        return CupyPass(self, bound)


class CupyPass(Pass):
    """A pass of a kernel. Launches only, and waits for nothing before its end."""

    def __init__(self, kernel: CupyKernel, bound: BoundKernel) -> None:
        import cupy

        super().__init__(bound)
        self.kernel = kernel
        self._sums = cupy.zeros((len(self.program.reductions), self.blocks.block_count), np.float64)
        self._arguments: tuple[Any, ...] = ()

    def set_arguments(
        self, scalars: Mapping[str, float], arrays: Mapping[str, Array], of_segments: Mapping[str, Floats]
    ) -> None:
        """Takes a call's numbers and arrays; see `Pass`."""
        import cupy

        self.done = 0
        program, bound = self.program, self.bound
        runs = np.array([of_segments[name] for name in program.segment_scalars], np.float64)
        given = bound.arrays | {name: bound.check_array(name, arrays[name]) for name in bound.missing}
        counts = [np.int64(self.blocks.block_count), np.int64(len(self.blocks.ends))]
        own, numbers = [given[name] for name in program.arrays], [scalars[name] for name in program.scalars]
        self._arguments = (
            *counts, *_copy_blocks_to_device(self.blocks), cupy.asarray(runs), self._sums,
            *own, *map(np.float64, numbers),
        )  # fmt: skip

    def release_arrays(self) -> None:
        """Lets go of arrays; see `Pass`."""
        self._arguments = ()

    def compute(self, low: int, high: int, least: int = 0) -> None:
        """Launches elements; see `Pass`."""
        if self.program.reductions:
            low, high, threads = self.blocks.block_at(low), self.blocks.block_at(high), LANES
            blocks = high - low
        else:
            threads, blocks = THREADS, -(-(high - low) // THREADS)
        arguments = (np.int64(low), np.int64(high), *self._arguments)
        self.kernel.compiled((min(blocks, MOST_BLOCKS),), (threads,), arguments)

    def fold_sums(self) -> Sums:
        """The sums of all elements, for which it waits."""
        import cupy

        rows = cupy.asnumpy(self._sums)
        return {r.name: fold_blocks(rows[i], self.blocks) for i, r in enumerate(self.program.reductions)}


@functools.lru_cache(maxsize=64)
def _copy_blocks_to_device(cut: SegmentBlocks) -> tuple[Array, Array, Array]:
    """The arrays of a cut on the GPU; sessions use the same cut over and over."""
    import cupy

    return cupy.asarray(cut.starts), cupy.asarray(cut.ends), cupy.asarray(cut.firsts)


class CupyDeviceCopy(DeviceCopy):
    """A host array's twin on the GPU; a `DeviceCopy`.

    Kernels run on the current stream, copies on a stream for each direction, so that they
    overlap with kernels and with each other; events keep the order that matters. Copies are
    asynchronous where the host array lies in pinned memory (`CupyBackend.host_buffer`).
    """

    def __init__(self, array: HostArray) -> None:
        import cupy

        super().__init__(cupy.empty(array.shape, array.dtype))
        self._host = array
        self._up = cupy.cuda.Stream(non_blocking=True)
        self._down = cupy.cuda.Stream(non_blocking=True)

    def copy_to_device(self, start: int, stop: int) -> None:
        import cupy

        kernels = cupy.cuda.get_current_stream()
        if start == 0:  # kernels may still be reading what was there before
            self._up.wait_event(kernels.record())
        part = self.array[start:stop]
        part.data.copy_from_host_async(self._host_pointer(start), part.nbytes, self._up)
        kernels.wait_event(self._up.record())

    def copy_to_host(self, start: int, stop: int) -> None:
        import cupy

        self._down.wait_event(cupy.cuda.get_current_stream().record())
        part = self.array[start:stop]
        part.data.copy_to_host_async(self._host_pointer(start), part.nbytes, self._down)

    def wait(self) -> None:
        self._down.synchronize()

    def _host_pointer(self, start: int) -> ctypes.c_void_p:
        first = self._host.__array_interface__["data"][0] + start * self._host.itemsize
        return ctypes.c_void_p(first)


class CupyBackend(Backend):
    """The current CUDA device; a `Backend`."""

    name = "cupy"
    brief = 1 << 17

    def __init__(self) -> None:
        import cupy

        super().__init__()
        self.array_module = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.device = f"{properties['name'].decode()}, CuPy {cupy.__version__}"

    def new_kernel(
        self, program: Program, dtype: np.dtype[Any], storage: tuple[np.dtype[Any], ...], keep: bool
    ) -> Kernel:
        return CupyKernel(program, dtype, storage)

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """Pinned bytes, which travel to and from the GPU while it computes."""
        import cupy

        if byte_count == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(byte_count), np.uint8, byte_count)

    def make_device_copy(self, array: HostArray) -> CupyDeviceCopy:
        """A twin of ``array`` on the GPU, nothing in it as yet."""
        return CupyDeviceCopy(array)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        import cupy

        return cupy.full(size, value, dtype)

    def from_host(self, array: HostArray) -> Array:
        """A copy of ``array`` on the GPU."""
        import cupy

        return cupy.asarray(np.require(array, requirements=["C", "A"]))

    def to_host(self, array: Array) -> HostArray:
        """A copy of ``array`` on the host."""
        import cupy

        host: HostArray = cupy.asnumpy(array)
        return host
