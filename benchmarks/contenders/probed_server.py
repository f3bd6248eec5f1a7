"""The server with a thread in it that answers questions about its process.

The question ``memory`` is answered with the bytes in use. Resident memory alone says little about
growth: the C library keeps freed memory, depending on how many messages were ever in flight at once.
The question ``stacks`` is answered with what the event loop's thread was doing, sampled all the time.
Between ``start`` and ``stop``, the server's layers are sampled, if `SAMPLING` is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import FrameType
from typing import Any

from optserve_server.__main__ import main
from optserve_server.resources.memory import resident_bytes
from tests.support.server import RunningServer, running_server

ADDRESS = "PROBE_ADDRESS"
"""Environment variable with the unix socket of the probe."""

SAMPLING = "PROBE_SAMPLING"
"""Environment variable; if it is set, the server has a `benchmarks.contenders.sampler`."""

SAMPLE_INTERVAL_S = 0.005
MAX_LATE_S = 0.02
MAX_SAMPLES = 200_000
WAITING = ("/threading.py", "/queue.py", "/selectors.py", "/socket.py")
HELPER = "_help"
"""Function in which the threads of large kernels wait."""
LOOP = "optserve_server/__main__.py"
"""Runs the event loop: its innermost frame if the loop waits or runs compiled code."""

Sample = tuple[float, str]
"""A monotonic time, and the innermost function of the server in the event loop's thread."""


class _Mallinfo(ctypes.Structure):
    """Result of mallinfo2(3) of glibc 2.33 and later."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def measure_resident_bytes() -> int:
    """Resident bytes of this process without free memory of the C library's heap."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    return resident_bytes() - int(mallinfo2().fordblks)


class Probe:
    """Asks a probed server.

    Args:
        connection: to its probe.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def resident_bytes(self) -> int:
        """Returns the server's `measure_resident_bytes`."""
        return int(self._ask("memory"))

    def stacks(self) -> list[Sample]:
        """Returns the samples since the last question."""
        return list(self._ask("stacks"))

    def start_sampling(self) -> None:
        """Begins to sample the server's layers."""
        self._ask("start")

    def stop_sampling(self) -> tuple[dict[str, int], list[tuple[str, int]]]:
        """Returns what `benchmarks.contenders.sampler.Sampler.stop` returns."""
        layers, functions = self._ask("stop")
        return layers, functions

    def _ask(self, question: str) -> Any:
        self._connection.send(question)
        return self._connection.recv()


@contextlib.contextmanager
def run_probed_server(backend: str, **settings: Any) -> Iterator[tuple[RunningServer, Probe]]:
    """Runs a probed server until the block ends; settings as for `running_server`."""
    with contextlib.ExitStack() as stack:
        address = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "probe"))
        variables = {**settings.pop("variables", {}), ADDRESS: address}
        server = stack.enter_context(
            running_server(backend, module=__name__, variables=variables, **settings)
        )
        yield server, Probe(stack.enter_context(Client(address, "AF_UNIX")))


def _answer(listener: Listener, answers: Mapping[str, Callable[[], object]]) -> None:
    with listener.accept() as connection, contextlib.suppress(EOFError):
        while True:
            connection.send(answers[connection.recv()]())


def _take(samples: deque[Sample]) -> list[Sample]:
    """Empties the samples and returns them."""
    return [samples.popleft() for _ in range(len(samples))]


def _sample(loop_thread: int, samples: deque[Sample]) -> None:
    """Samples the event loop's thread; and all threads if one of them did not release the interpreter."""
    before = time.monotonic()
    while True:
        time.sleep(SAMPLE_INTERVAL_S)
        now = time.monotonic()
        frames = sys._current_frames()
        if now - before > MAX_LATE_S:
            busy = {text for thread, frame in frames.items() if (text := _innermost(frame))}
            samples.append((now, f"held for {now - before:.2f} s: {' | '.join(busy)}"))
        elif text := _innermost(frames[loop_thread]):
            samples.append((now, text))
        before = now


def _innermost(frame: FrameType | None) -> str:
    """Returns the innermost function of the server in a stack; nothing for a thread that waits."""
    if frame is None or frame.f_code.co_filename.endswith(WAITING) or frame.f_code.co_name == HELPER:
        return ""
    while frame is not None:
        path = frame.f_code.co_filename
        for package in ("optserve_server/", "optserve/"):
            if package in path and not path.endswith(LOOP):
                return f"{frame.f_code.co_name} ({path.rpartition(package)[2]}:{frame.f_lineno})"
        frame = frame.f_back
    return ""


def _start_probe(listener: Listener) -> None:
    """Starts the probe's threads; to be called in the main thread."""
    samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
    answers: dict[str, Callable[[], object]] = {
        "memory": measure_resident_bytes,
        "stacks": partial(_take, samples),
    }
    threads: dict[Callable[..., None], tuple[Any, ...]] = {_answer: (listener, answers)}
    if SAMPLING in os.environ:
        from benchmarks.contenders.sampler import Sampler

        sampler = Sampler()
        answers |= {"start": sampler.start, "stop": sampler.stop}
    else:
        threads[_sample] = (threading.get_ident(), samples)
    for target, arguments in threads.items():
        threading.Thread(target=target, args=arguments, daemon=True).start()


if __name__ == "__main__":
    with Listener(os.environ[ADDRESS], "AF_UNIX") as listening:
        _start_probe(listening)
        sys.exit(main())
