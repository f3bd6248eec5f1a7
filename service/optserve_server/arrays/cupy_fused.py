"""Executor for NVIDIA GPUs: one fused kernel per program."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import NONE, Array, HostArray, Segments, Sums
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.emission import dtypes
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import LANES, Cut, cut_of, fold_blocks

THREADS = 256
"""Threads of a block where nothing is reduced."""

MOST_BLOCKS = 65_535
"""Blocks of a grid; threads stride over what is left."""

Floats = npt.NDArray[np.float64]


class CupyKernel:
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

        self.program = program
        self.storage = dict(zip(program.arrays, storage, strict=True))
        self.compiled = cupy.RawKernel(cuda_source(program, dtype, storage), "kernel", options=OPTIONS)
        self.compiled.compile()

    def bind(
        self, arrays: Mapping[str, Array], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> CupyBound:
        """Checks arrays for many calls; see `Kernel`."""
        return CupyBound(self, arrays, size, cut_of(size, ends))

    def __call__(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> Sums:
        """Runs the program once; see `Kernel`."""
        size = len(arrays[self.program.arrays[0]]) if self.program.arrays else 0
        if segments is None:
            return self.bind(arrays, size)(scalars)
        return self.bind(arrays, size, segments.ends)(scalars, of_segments=segments.scalars)


class CupyBound:
    """A kernel and arrays on the GPU; a `Bound`."""

    def __init__(self, kernel: CupyKernel, arrays: Mapping[str, Array], size: int, cut: Cut) -> None:
        self.kernel, self.size, self.cut = kernel, size, cut
        names = kernel.program.arrays
        self.arrays = {name: self.check_array(name, arrays[name]) for name in names if name in arrays}

    def __call__(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> Sums:
        """Runs the program; see `Bound`. Waits for the GPU if there are sums."""
        return self.begin(scalars, arrays, of_segments).end()

    def totals(self, scalars: Mapping[str, float]) -> Mapping[str, float]:
        """Runs the program; see `Bound`."""
        return {name: float(sums[0]) for name, sums in self(scalars).items()}

    def begin(
        self,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array] = NONE,
        of_segments: Mapping[str, Floats] = NONE,
    ) -> CupyPass:
        """Runs the program in pieces; see `Bound`."""
        return CupyPass(self, scalars, arrays, of_segments)

    def check_array(self, name: str, array: Array) -> Array:
        """``array`` as the kernel takes it."""
        dtype = self.kernel.storage[name]
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype}, but the kernel was compiled for {dtype}")
        if array.shape != (self.size,):
            raise ValueError("arrays and segments differ in length")
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous")
        return array


class CupyPass:
    """A pass of a kernel; a `Pass`. Launches asynchronously, and waits only at its end."""

    def __init__(
        self,
        bound: CupyBound,
        scalars: Mapping[str, float],
        arrays: Mapping[str, Array],
        of_segments: Mapping[str, Floats],
    ) -> None:
        import cupy

        self._bound, self._cut, self._done = bound, bound.cut, 0
        self._program = bound.kernel.program
        runs = np.array([of_segments[name] for name in self._program.segment_scalars], np.float64)
        self._sums = cupy.zeros((len(self._program.reductions), self._cut.count), np.float64)
        own = [
            bound.arrays[name] if name in bound.arrays else bound.check_array(name, arrays[name])
            for name in self._program.arrays
        ]
        counts = [np.int64(self._cut.count), np.int64(len(self._cut.ends))]
        numbers = [np.float64(scalars[name]) for name in self._program.scalars]
        self._rest = (*counts, *_on_device(self._cut), cupy.asarray(runs), self._sums, *own, *numbers)

    def advance(self, stop: int) -> None:
        """Launches the elements before ``stop``; see `Pass`."""
        high = self._cut.block_start(stop) if self._program.reductions else stop
        if high > self._done:
            self._launch(self._done, high)
            self._done = high

    def end(self) -> Sums:
        """Launches what is left, and waits for the sums; see `Pass`."""
        import cupy

        if self._done < self._bound.size:
            self._launch(self._done, self._bound.size)
            self._done = self._bound.size
        if not self._program.reductions:
            return {}
        rows = cupy.asnumpy(self._sums)
        return {r.name: fold_blocks(rows[i], self._cut) for i, r in enumerate(self._program.reductions)}

    def _launch(self, low: int, high: int) -> None:
        if self._program.reductions:
            low, high, threads = self._cut.block_at(low), self._cut.block_at(high), LANES
            blocks = high - low
        else:
            threads, blocks = THREADS, -(-(high - low) // THREADS)
        arguments = (np.int64(low), np.int64(high), *self._rest)
        self._bound.kernel.compiled((min(blocks, MOST_BLOCKS),), (threads,), arguments)


@functools.lru_cache(maxsize=64)
def _on_device(cut: Cut) -> tuple[Array, Array, Array]:
    """The arrays of a cut on the GPU; sessions use the same cut over and over."""
    import cupy

    return cupy.asarray(cut.starts), cupy.asarray(cut.ends), cupy.asarray(cut.firsts)


class CupyMirror:
    """GPU copy of a host array; a `Mirror`.

    Kernels run on the current stream, copies on a stream for each direction, so that they
    overlap with kernels and with each other; events keep the order that matters. Copies are
    asynchronous where the host array lies in pinned memory (`CupyBackend.host_buffer`).
    """

    def __init__(self, array: HostArray) -> None:
        import cupy

        self._host = array
        self.array: Array = cupy.empty(array.shape, array.dtype)
        self._up = cupy.cuda.Stream(non_blocking=True)
        self._down = cupy.cuda.Stream(non_blocking=True)

    def send(self, start: int, stop: int) -> None:
        """Starts to copy elements to the GPU; see `Mirror`."""
        import cupy

        kernels = cupy.cuda.get_current_stream()
        if start == 0:  # kernels may still be reading what was there before
            self._up.wait_event(kernels.record())
        part = self.array[start:stop]
        part.data.copy_from_host_async(self._pointer(start), part.nbytes, self._up)
        kernels.wait_event(self._up.record())

    def fetch(self, start: int, stop: int) -> None:
        """Starts to copy elements to the host; see `Mirror`."""
        import cupy

        self._down.wait_event(cupy.cuda.get_current_stream().record())
        part = self.array[start:stop]
        part.data.copy_to_host_async(self._pointer(start), part.nbytes, self._down)

    def wait(self) -> None:
        """Returns when what was to be fetched is there."""
        self._down.synchronize()

    def _pointer(self, start: int) -> ctypes.c_void_p:
        first = self._host.__array_interface__["data"][0] + start * self._host.itemsize
        return ctypes.c_void_p(first)


class CupyBackend:
    """The current CUDA device; a `Backend`."""

    name = "cupy"
    brief = 1 << 17

    def __init__(self) -> None:
        import cupy

        self.array_module: Any = cupy
        self._kernels: dict[object, CupyKernel] = {}
        self._compiling = threading.Lock()
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.device = f"{properties['name'].decode()}, CuPy {cupy.__version__}"

    def compile(
        self,
        program: Program,
        dtype: np.dtype[Any],
        storage: Mapping[str, np.dtype[Any]],
        *,
        keep: bool = True,
    ) -> CupyKernel:
        """The kernel of a program; see `Backend`."""
        dtype = np.dtype(dtype)
        key = program, dtype, dtypes(program, dtype, storage)
        if not keep:
            return CupyKernel(*key)
        known = self._kernels.get(key)
        if known is not None:  # found without waiting for what is being compiled
            return known
        with self._compiling:
            if key not in self._kernels:
                self._kernels[key] = CupyKernel(*key)
            return self._kernels[key]

    def host_buffer(self, byte_count: int) -> npt.NDArray[np.uint8]:
        """Pinned bytes, which travel to and from the GPU while it computes."""
        import cupy

        if byte_count == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(byte_count), np.uint8, byte_count)

    def mirror(self, array: HostArray) -> CupyMirror:
        """A twin of ``array`` on the GPU, nothing in it as yet."""
        return CupyMirror(array)

    def full(self, size: int, value: float, dtype: np.dtype[Any]) -> Array:
        """A new array; see `Backend`."""
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
