"""Selection of the executor."""

from __future__ import annotations

import importlib.util

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numpy_blocked import NumpyBackend

NAMES = ("auto", "cupy", "numba", "numpy")
"""What `select_backend` takes."""


def select_backend(name: str = "auto") -> Backend:
    """The named executor, or the fastest that this machine has.

    Args:
        name: one of `NAMES`. ``auto`` takes cupy where a GPU answers, numba where it is
            installed, and numpy otherwise.

    Raises:
        ValueError: there is no executor of that name.
        RuntimeError: the machine lacks what the named executor needs.
    """
    if name not in NAMES:
        raise ValueError(f"backend is {name!r}, but must be one of {', '.join(NAMES)}")
    if name == "auto":
        name = "cupy" if gpu_answers() else "numba" if has_numba() else "numpy"
    if name == "cupy":
        return _make_cupy_backend()
    if name == "numba":
        return _make_numba_backend()
    return NumpyBackend()


def gpu_answers() -> bool:
    """Whether CuPy is installed and finds a GPU that it can use."""
    if importlib.util.find_spec("cupy") is None:
        return False
    try:
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount() > 0)
    except Exception:  # a broken driver shows in many ways, all of which mean: no GPU
        return False


def has_numba() -> bool:
    """Whether Numba is installed."""
    return importlib.util.find_spec("numba") is not None


def _make_cupy_backend() -> Backend:
    if not gpu_answers():
        raise RuntimeError("backend cupy needs the extra [gpu] and an NVIDIA GPU that answers")
    from optserve_server.arrays.cupy_fused import CupyBackend

    return CupyBackend()


def _make_numba_backend() -> Backend:
    if not has_numba():
        raise RuntimeError("backend numba needs the extra [numba]")
    from optserve_server.arrays.numba_jit import NumbaBackend

    return NumbaBackend()
