"""Samples where a process spends its processor time, without privileges and without other programs.

Every thread has a timer of its own processor time, whose signal interrupts it. The handler is compiled by
Numba. It copies the program counter and the top of the stack; afterwards these are compared with the
memory map of the process. In gRPC's extension module, the functions that Cython made are one range of
addresses; the rest is gRPC's C core. If Python code runs in the main thread, Python's own handler gets the
frame as well. Python code of another thread belongs to the layer of the function that the thread began with.
"""

from __future__ import annotations

import bisect
import ctypes
import importlib
import os
import platform
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

C_CORE, CYTHON, ASYNCIO, OURS, KERNELS = "C core", "Cython", "asyncio", "ours", "kernels"
LAYERS = (C_CORE, CYTHON, ASYNCIO, OURS, KERNELS)
INTERVAL_NS = 1_000_000
"""Processor time between two samples of a thread; kernels round it up to their tick."""

MAX_SAMPLES = 8192
TOP_FUNCTIONS = 6
HELPERS = ("/threading.py", "/queue.py", "/contextlib.py", "/enum.py")
"""Files of the standard library whose functions work for their caller."""

STACK_WORDS = 256
WIDTH = STACK_WORDS + 2
"""Words of a sample: native id of the thread, program counter, stack."""

THREAD_WORD = 3
"""Index of a timer's value in siginfo_t, in words."""

STACK_POINTER, PROGRAM_COUNTER = {"x86_64": (20, 21), "aarch64": (54, 55)}.get(platform.machine(), (0, 0))
"""Indices of registers in ucontext_t, in words."""

SIGEV_THREAD_ID = 4
EVALUATION_BYTES = 1 << 16
"""Bound on the size of the interpreter's main function."""

LIBC = ctypes.CDLL(None, use_errno=True)


class _Action(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


class Region(NamedTuple):
    """A range of executable memory.

    Attributes:
        name: a layer, or ``python``, or ``library`` for code that works for its caller.
    """

    start: int
    end: int
    name: str


class Sampler:
    """Samples this process; to be made in its main thread."""

    def __init__(self) -> None:
        if not PROGRAM_COUNTER:
            raise RuntimeError(f"processor {platform.machine()} is unknown to the sampler")
        self._ring = np.zeros(1 + MAX_SAMPLES * WIDTH, np.uint64)
        self._frames: list[tuple[int, str, str]] = []
        self._threads: dict[int, str] = {}
        self._timers: list[ctypes.c_void_p] = []
        signal.signal(signal.SIGPROF, self._on_frame)
        old = _Action()
        LIBC.sigaction(signal.SIGPROF, None, ctypes.byref(old))
        self._handler = _handler(self._ring.ctypes.data, old.handler)
        action = _Action(self._handler.address, flags=signal_flags())
        if LIBC.sigaction(signal.SIGPROF, ctypes.byref(action), None):
            raise OSError(ctypes.get_errno(), "sigaction failed")

    def start(self) -> None:
        """Begins to sample all threads that exist."""
        self._ring[0] = 0
        self._frames.clear()
        frames = sys._current_frames()
        self._threads = {
            thread.native_id or 0: _origin(frames.get(thread.ident or 0))
            for thread in threading.enumerate()
            if thread is not threading.main_thread()
        }
        for thread in map(int, os.listdir("/proc/self/task")):
            timer = ctypes.c_void_p()
            event = _Event(value=thread, signal=signal.SIGPROF, notify=SIGEV_THREAD_ID, thread=thread)
            clock = (~thread << 3) | 6  # processor time of a thread
            if LIBC.timer_create(clock, ctypes.byref(event), ctypes.byref(timer)):
                continue  # the thread has ended
            setting = (ctypes.c_long * 4)(0, INTERVAL_NS, 0, INTERVAL_NS)
            LIBC.timer_settime(timer, 0, ctypes.byref(setting), None)
            self._timers.append(timer)

    def stop(self) -> tuple[dict[str, int], list[tuple[str, int]]]:
        """Ends the sampling.

        Returns:
            The number of samples by layer, and those of our functions in the main thread, the most first.
        """
        for timer in self._timers:
            LIBC.timer_delete(timer)
        self._timers.clear()
        count = min(int(self._ring[0]), MAX_SAMPLES)
        samples = self._ring[1 : 1 + count * WIDTH].reshape(count, WIDTH)
        regions = list(_regions())
        starts = [region.start for region in regions]
        evaluation = ctypes.cast(ctypes.pythonapi._PyEval_EvalFrameDefault, ctypes.c_void_p).value or 0
        frames = {index: (layer, function) for index, layer, function in reversed(self._frames)}
        found: Counter[str] = Counter()
        functions: Counter[str] = Counter()
        for index, (thread, *sample) in enumerate(samples.tolist()):
            layer = _layer(sample, regions, starts, evaluation)
            if layer == "python" and thread in self._threads:
                layer = self._threads[thread]
            elif layer == "python":
                later = (frames[i] for i in range(index, index + 4) if i in frames)
                layer, function = next(later, (OURS, ""))
                functions[function] += layer == OURS
            found[layer] += 1
        return dict(found), functions.most_common(TOP_FUNCTIONS)

    def _on_frame(self, number: int, frame: FrameType | None) -> None:
        """Notes the layer of the Python code that runs, for the last sample."""
        while frame is not None and frame.f_code.co_filename.endswith(HELPERS):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            function = f"{code.co_name} ({Path(code.co_filename).name})"
            self._frames.append((int(self._ring[0]) - 1, _layer_of(code.co_filename), function))


def _layer_of(path: str) -> str:
    """Returns the layer of the Python code in a file."""
    return CYTHON if "/grpc/" in path else ASYNCIO if "/asyncio/" in path else OURS


def _origin(frame: FrameType | None) -> str:
    """Returns the layer of the function that a thread began with."""
    layer = CYTHON
    while frame is not None:
        if not frame.f_code.co_filename.endswith("/threading.py"):
            layer = _layer_of(frame.f_code.co_filename)
        frame = frame.f_back
    return layer


def signal_flags() -> int:
    """Returns SA_SIGINFO | SA_RESTART | SA_ONSTACK."""
    return 0x4 | 0x10000000 | 0x08000000


def _to_pointer(context: Any, address: Any) -> Any:
    """Makes a pointer of a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


_pointer: Any = intrinsic(_to_pointer)
carray: Any = vars(numba)["carray"]


def _handler(ring_address: int, python_handler: int) -> Any:
    """Compiles the signal's handler, which appends to the ring and calls Python's own."""
    ring_pointer = np.uint64(ring_address)
    notify = ctypes.CFUNCTYPE(None, ctypes.c_int)(python_handler)

    @numba.cfunc(types.void(types.int32, types.voidptr, types.voidptr))
    def handler(number, info, context):  # type: ignore[no-untyped-def]
        registers = carray(context, (64,), np.uint64)
        ring = carray(_pointer(ring_pointer), (1 + MAX_SAMPLES * WIDTH,), np.uint64)
        index = ring[0]
        if index < np.uint64(MAX_SAMPLES):
            ring[0] = index + np.uint64(1)
            slot = np.int64(1) + np.int64(index) * WIDTH
            ring[slot] = carray(info, (THREAD_WORD + 1,), np.uint64)[THREAD_WORD]
            ring[slot + 1] = registers[PROGRAM_COUNTER]
            stack = carray(_pointer(registers[STACK_POINTER]), (STACK_WORDS,), np.uint64)
            for word in range(STACK_WORDS):
                ring[slot + 2 + word] = stack[word]
        notify(number)

    return handler


def _layer(sample: list[int], regions: list[Region], starts: list[int], evaluation: int) -> str:
    """Returns the layer of a sample, or ``python``: that of the innermost code that works for itself."""
    is_python = False
    for address in sample:
        position = bisect.bisect_right(starts, address) - 1
        if position < 0 or address >= regions[position].end:
            continue
        name = regions[position].name
        if name == "python":
            is_python = True
            if evaluation <= address < evaluation + EVALUATION_BYTES:
                return name
        elif name != "library":
            return name
    return "python" if is_python else C_CORE  # gRPC's threads have no Python code


def _regions() -> Iterator[Region]:
    """Yields the executable memory of this process, in the order of addresses."""
    interpreter = (Path(sys.executable).resolve().name, "libpython")
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, _, _, *rest = line.split(maxsplit=5)
        if "x" not in permissions:
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        path = rest[0] if rest else ""
        name = Path(path).name
        if name.startswith("cygrpc"):
            first, last = _cython_range(start, end)
            yield Region(start, first, C_CORE)
            yield Region(first, last, CYTHON)
            yield Region(last, end, C_CORE)
        elif not path or "numpy" in path or "xxhash" in path:
            yield Region(start, end, KERNELS)  # memory without a file has what Numba compiled
        elif name.startswith(interpreter):
            yield Region(start, end, "python")
        elif name.startswith(("_asyncio", "loop.", "select.")):
            yield Region(start, end, ASYNCIO)
        else:
            yield Region(start, end, OURS if "/site-packages/" in path else "library")


def _cython_range(start: int, end: int) -> tuple[int, int]:
    """Returns the range of gRPC's extension module that has the functions made by Cython.

    They are one object file, and so neighbours: the range is between the first and the last function
    that Python can see.

    Args:
        start, end: of the module's executable memory.
    """
    module = importlib.import_module("grpc._cython.cygrpc")
    members = chain.from_iterable(
        vars(value).values() if isinstance(value, type) else (value,) for value in vars(module).values()
    )
    addresses = [address for member in members if start <= (address := _method(member)) < end]
    return min(addresses), max(addresses)


def _method(member: object) -> int:
    """Returns the address of a compiled function; 0 if it is none."""
    offset = {"cython_function_or_method": 2, "builtin_function_or_method": 2, "method_descriptor": 5}.get(
        type(member).__name__
    )
    if offset is None:
        return 0
    definition = ctypes.c_void_p.from_address(id(member) + 8 * offset).value or 0
    return (ctypes.c_void_p.from_address(definition + 8).value or 0) if definition else 0
