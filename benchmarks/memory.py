"""What sessions cost the server beyond their arrays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import optserve
from benchmarks.contenders.probed_server import run_probed_server
from benchmarks.options import Options
from benchmarks.results import Finding, Result
from benchmarks.trends import growth
from tests.support import watching
from tests.support.server import running_server

GROUP = "memory"
LARGE = (25_000_000,)
STEPS = 1000
WARM_UP = 100
"""Steps before those: buffers are taken when they are needed first."""
SESSIONS = 1000
MARKS = (1, 10, 100, 1000)
SMALL = 1000
ARRAYS = 3
"""Of Adam: parameters and two slots."""
MIB = 1 << 20

Array = npt.NDArray[Any]


def run(options: Options) -> Iterator[Finding]:
    """A large session's memory, its growth, and a small one's."""
    for n in options.sizes_of(LARGE):
        yield from _large(n)
    yield from _many()


def resident(pid: int) -> float:
    """Memory of a process that is there, in MiB."""
    return watching.resident(pid) / MIB


def peak(pid: int) -> float:
    """The most memory of a process that ever was there, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) / 1024


def _large(n: int) -> Iterator[Finding]:
    """One session against the server before it, while it steps."""
    gradient = np.random.default_rng(0).standard_normal(n, np.float32)
    with (
        run_probed_server("numba") as (server, probe),
        optserve.connect(server.address, progress=False) as client,
    ):
        pid = server.process.pid
        client.capabilities()
        before = resident(pid)
        session = client.create_session({"w": np.zeros(n, np.float32)}, optserve.optimizers.Adam())
        with session.stream(pull=True, shared_memory=False) as stream:
            series = []
            for _ in range(WARM_UP + STEPS):
                stream.step({"w": gradient})
                series.append((resident(pid) - before, probe.resident_bytes() / MIB))
            there, in_use = np.transpose(series[WARM_UP:])
            needed = (ARRAYS + 1) * 4 * n / MIB
            most = peak(pid) - before
            yield Result(GROUP, "session of one tensor", n, float(np.median(there)), "MiB")
            yield Result(GROUP, "session of one tensor, at most", n, most, "MiB")
            yield Result(GROUP, "beyond parameters, slots and a gradient", n, most - needed, "MiB")
            yield Result(GROUP, f"growth over {STEPS} steps", n, growth(in_use.tolist(), STEPS), "MiB")


def _many() -> Iterator[Finding]:
    """Small sessions, each stepped once; the first one, which warms the server up, does not count."""
    gradient = {"w": np.ones(SMALL, np.float32)}
    flags: dict[str, Any] = {"max_sessions": SESSIONS + 1}
    with running_server("numba", **flags) as server, optserve.connect(server.address) as client:
        pid = server.process.pid

        def make() -> optserve.SessionHandle:
            session = client.create_session({"w": np.zeros(SMALL, np.float32)}, optserve.optimizers.Adam())
            session.step(gradient, pull=True)
            return session

        make()
        start = resident(pid)
        for number in range(1, SESSIONS + 1):
            session = make()
            if number in MARKS:
                yield Result(GROUP, "server, by number of sessions", number, resident(pid), "MiB")
                seconds = statistics.median(_steps(session, gradient))
                yield Result(GROUP, "step, by number of sessions", number, seconds * 1e6, "us")
        each = (resident(pid) - start) / SESSIONS * 1024 - ARRAYS * 4 * SMALL / 1024
        yield Result(GROUP, "a small session beyond its tensors", SESSIONS, each, "KiB")


def _steps(session: optserve.SessionHandle, gradient: dict[str, Array]) -> Iterator[float]:
    """Seconds of unary steps."""
    for _ in range(200):
        start = time.perf_counter()
        session.step(gradient, pull=True)
        yield time.perf_counter() - start
