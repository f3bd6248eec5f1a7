"""The arithmetic of generated CUDA kernels, compiled for the host without contraction.

The text of ``element`` is the very one that the CUDA kernel calls; only the loop around
it, which hands out elements and adds up lanes, is written here.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.cuda_source import C_TYPES, SUMMANDS, element_source
from optserve_server.arrays.kernel import Segments
from optserve_server.arrays.program import Program
from optserve_server.arrays.reductions import BLOCK, LANES, SegmentBlocks, fold_blocks
from optserve_server.arrays.source_generation import storage_dtypes

FOLDER = Path(__file__).parents[2] / "build" / "host-cuda"
"""Where libraries stay for the next run."""

FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-fno-fast-math", "-shared", "-fPIC", "-Wno-overflow")

DRIVER = """
void run(long long segments, const long long *starts, const long long *ends, const double *numbers,
         const double *runs, double *sums, void **arrays, long long blocks) {{
  long long block = 0;
  for (long long segment = 0; segment < segments; segment++)
    for (long long start = starts[segment]; start < ends[segment]; start += {BLOCK}, block++) {{
      double lanes[{rows} + 1][{LANES}] = {{{{0}}}};
      for (long long i = start; i < start + {BLOCK} && i < ends[segment]; i++) {{
        {values}
        element({arguments});
        {added}
      }}
      for (int row = 0; row < {rows}; row++) {{
        for (int width = {LANES} / 2; width > 0; width /= 2)
          for (int lane = 0; lane < width; lane++) lanes[row][lane] += lanes[row][lane + width];
        sums[row * blocks + block] = lanes[row][0];
      }}
    }}
}}
"""


class HostKernel:
    """A program's CUDA arithmetic on the host; a `Kernel` for tests.

    Args:
        program: the program.
        dtype: the compute dtype.
        storage: the dtypes of arrays stored in another one.
    """

    def __init__(
        self, program: Program, dtype: np.dtype[Any], storage: Mapping[str, np.dtype[Any]]
    ) -> None:  # fmt: skip
        self.program = program
        self.storage = storage_dtypes(program, np.dtype(dtype), storage)
        self.run = load_library(host_source(program, np.dtype(dtype), self.storage)).run
        self.run.restype = None

    def __call__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        scalars: Mapping[str, float],
        segments: Segments | None = None,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Runs the program; see `Kernel`."""
        own = [arrays[name] for name in self.program.arrays]
        assert [array.dtype for array in own] == list(self.storage)
        size = len(own[0])
        cut = SegmentBlocks.from_ends(np.array([size], np.int64) if segments is None else segments.ends)
        given = {} if segments is None else segments.scalars
        numbers = np.array([scalars[name] for name in self.program.scalars], np.float64)
        runs = np.array([given[name] for name in self.program.segment_scalars], np.float64)
        sums = np.zeros((len(self.program.reductions), cut.block_count))
        addresses = (ctypes.c_void_p * len(own))(*[array.ctypes.data for array in own])
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (cut.starts, cut.ends, numbers, runs, sums)]
        self.run(ctypes.c_longlong(len(cut.ends)), *pointers, addresses, ctypes.c_longlong(cut.block_count))
        return {r.name: fold_blocks(sums[i], cut) for i, r in enumerate(self.program.reductions)}


def host_source(program: Program, dtype: np.dtype[Any], storage: Sequence[np.dtype[Any]]) -> str:
    """C text: the generated element and a loop over segments, blocks and lanes."""
    rows = range(len(program.reductions))
    arguments = ["i", *(f"({C_TYPES[t]} *)arrays[{i}]" for i, t in enumerate(storage))]
    arguments += [f"(real)numbers[{i}]" for i in range(len(program.scalars))]
    arguments += [f"(real)runs[{i} * segments + segment]" for i in range(len(program.segment_scalars))]
    arguments += [f"&v{i}" for i in rows]
    added = [
        f"lanes[{i}][(i - start) % {LANES}] += {SUMMANDS[r.kind].format(f'v{i}')};"
        for i, r in enumerate(program.reductions)
    ]
    driver = DRIVER.format(
        BLOCK=BLOCK,
        LANES=LANES,
        rows=len(rows),
        values=" ".join(f"real v{i};" for i in rows),
        arguments=", ".join(arguments),
        added=" ".join(added),
    )
    return element_source(program, dtype, storage) + driver


def load_library(source: str) -> ctypes.CDLL:
    """The shared library of a C text, compiled once per text and compiler."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler; in CI this is a failure")
    name = hashlib.sha256("\n".join([compiler(), *FLAGS, source]).encode()).hexdigest()[:24]
    library = FOLDER / f"{name}.so"
    if not library.exists():
        compile_library(source, library)
    return ctypes.CDLL(str(library))


@functools.cache
def compiler() -> str:
    """The C compiler's name, version and target."""
    command = ["cc", "-v", "-E", "-x", "c", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr


def compile_library(source: str, library: Path) -> None:
    """Compiles ``source``; ``library`` appears only when complete, also if another process compiles it."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        text, made = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        text.write_text(source, encoding="utf-8")
        command = ["cc", *FLAGS, "-o", str(made), str(text), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        made.rename(library)
