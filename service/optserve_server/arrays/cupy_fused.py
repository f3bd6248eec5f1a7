"""The executor for NVIDIA GPUs: one fused kernel per program."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Array, HostArray, Segments
from optserve_server.arrays.cuda_source import OPTIONS, cuda_source
from optserve_server.arrays.emission import dtypes
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import LANES, Cut, cut_of, fold_blocks

THREADS = 256
"""Threads of a block where nothing is reduced."""

MOST_BLOCKS = 65_535
"""Blocks of a grid; threads stride over what is left."""


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
        self.compiled = cupy.RawKernel(cuda_source(program, dtype, storage), "kernel", options=OPTIONS)
        self.compiled.compile()

    def __call__(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Runs the program; see `Kernel`."""
        import cupy

        own = [arrays[name] for name in self.program.arrays]
        size = len(own[0]) if own else 0
        cut = cut_of(size, segments)
        given = {} if segments is None else segments.scalars
        runs = np.array([given[name] for name in self.program.segment_scalars], np.float64)
        sums = cupy.zeros((len(self.program.reductions), cut.count), np.float64)
        if size:
            numbers = [np.float64(scalars[name]) for name in self.program.scalars]
            counts = [np.int64(n) for n in (size, cut.count, len(cut.ends))]
            self._launch(size, cut, [*counts, *_on_device(cut), cupy.asarray(runs), sums, *own, *numbers])
        if not self.program.reductions:
            return {}
        rows = cupy.asnumpy(sums)
        return {r.name: fold_blocks(rows[i], cut) for i, r in enumerate(self.program.reductions)}

    def _launch(self, size: int, cut: Cut, arguments: list[Any]) -> None:
        threads = LANES if self.program.reductions else THREADS
        blocks = cut.count if self.program.reductions else -(-size // threads)
        self.compiled((min(blocks, MOST_BLOCKS),), (threads,), tuple(arguments))


@functools.lru_cache(maxsize=64)
def _on_device(cut: Cut) -> tuple[Array, Array, Array]:
    """The arrays of a cut on the GPU; sessions use the same cut over and over."""
    import cupy

    return cupy.asarray(cut.starts), cupy.asarray(cut.ends), cupy.asarray(cut.firsts)


class CupyBackend:
    """The current CUDA device; a `Backend`."""

    name = "cupy"

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
        with self._compiling:
            if key not in self._kernels:
                self._kernels[key] = CupyKernel(*key)
            return self._kernels[key]

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
