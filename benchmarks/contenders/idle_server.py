"""optserve's server with kernels that compute nothing: all that is left of a step is its bytes.

A step's answer is written over its gradient, so one that nothing was computed for is the
gradient itself. Prints its port, and serves until its standard input closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server import __main__ as command
from optserve_server import app
from optserve_server.arrays.kernel import Array, Segments, Sums
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.program import Program

START_SECONDS = 60.0


class IdleKernel:
    """A `Kernel`, and what it is bound to; every sum is zero."""

    def __init__(self, program: Program, ends: npt.NDArray[np.int64] | None = None) -> None:
        self._program, self._ends = program, ends

    def bind(
        self, arrays: Mapping[str, Array], size: int, ends: npt.NDArray[np.int64] | None = None
    ) -> IdleKernel:
        return IdleKernel(self._program, ends)

    def totals(self, scalars: Mapping[str, float]) -> Mapping[str, float]:
        return {reduction.name: 0.0 for reduction in self._program.reductions}

    def begin(self, *arguments: Any, **named: Any) -> IdleKernel:
        return self

    def advance(self, stop: int) -> None:
        return

    def end(self) -> Sums:
        count = 1 if self._ends is None else len(self._ends)
        return {reduction.name: np.zeros(count) for reduction in self._program.reductions}

    def __call__(self, *arguments: Any, **named: Any) -> Sums:
        segments = next((a for a in arguments if isinstance(a, Segments)), None)
        return (self if segments is None else IdleKernel(self._program, segments.ends)).end()


class IdleBackend(NumbaBackend):
    """Numba's arrays, and kernels that do nothing."""

    def compile(self, program: Program, *arguments: Any, **named: Any) -> Any:
        return IdleKernel(program)


def announce(port_file: Path) -> None:
    """Prints the port when it is known, and stops the server when standard input closes."""
    deadline = time.monotonic() + START_SECONDS
    while not port_file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        print(int(port_file.read_text()), flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serves until standard input closes."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder, "port")
        threading.Thread(target=announce, args=(port_file,), daemon=True).start()
        setattr(app, "select", lambda name: IdleBackend())  # noqa: B010  another than its own type
        sys.argv[1:] = ["--port=0", f"--port-file={port_file}", "--log-level=error"]
        command.main()


if __name__ == "__main__":
    main()
