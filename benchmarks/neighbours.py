"""A client's steps alone, and beside another namespace at full load: p50, and its ratio.

``python -m benchmarks.neighbours ADDRESS TOKEN N JOURNAL`` is the load, in a process of its own. From each
line of its standard input that is not empty to the next, empty one it steps on several streams.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import optserve
from benchmarks.heavy_calls import build_folder
from benchmarks.options import Options
from benchmarks.results import Finding, Result, Spread
from optserve.enums import DurabilityMode
from optserve_server.rpc.authentication import tokens
from tests.support.server import RunningServer, running_server

GROUP, ALONE = "neighbours", "alone"
CASES = (("in memory", 10_000, False), ("journalled", 10_000, True), ("large, in memory", 5_000_000, False))
"""Names, elements of a gradient, and whether steps are journalled."""

STREAMS = 8
"""Of the load; each has a session of its own."""

WARM_UP_S = 0.3
MIN_SECONDS = 1.0


def run(options: Options) -> Iterator[Finding]:
    """Milliseconds of a step (median) beside the load, and the median over rounds of their ratio."""
    for name, n, is_journalled in CASES:
        if options.sizes_of([n]) == [n]:
            yield from _measure(name, n, is_journalled, options)


def _measure(name: str, n: int, is_journalled: bool, options: Options) -> Iterator[Finding]:
    alone, beside, ratios = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory(dir=build_folder()) as folder:
        quiet, busy = (tokens.add_token(Path(folder, "tokens"), each, each) for each in ("quiet", "busy"))
        settings: dict[str, Any] = {"data_dir": Path(folder, "data"), "tokens_file": Path(folder, "tokens")}
        with (
            running_server("auto", **settings) as server,
            _load(server, busy, n, is_journalled) as load,
            optserve.connect(server.address, token=quiet, progress=False) as client,
            _make_session(client, n, is_journalled).stream(pull=True, shared_memory=False) as stream,
        ):
            seconds = max(options.seconds, MIN_SECONDS)
            for _ in range(options.rounds):
                alone.append(_median_step(stream, n, seconds))
                with load:
                    beside.append(_median_step(stream, n, seconds))
                ratios.append(beside[-1] / alone[-1])
    value = statistics.median(beside) * 1e3
    yield Result(GROUP, name, n, value, "ms", ALONE, statistics.median(ratios))
    yield Spread(GROUP, name, n, ALONE, min(ratios), max(ratios))


def _make_session(client: optserve.Client, n: int, is_journalled: bool) -> optserve.SessionHandle:
    mode = DurabilityMode.JOURNAL if is_journalled else DurabilityMode.EPHEMERAL
    return client.create_session(
        {"w": np.zeros(n, np.float32)}, optserve.optimizers.Adam(), durability=optserve.Durability(mode=mode)
    )


def _median_step(stream: optserve.StepStream, n: int, seconds: float) -> float:
    """Median seconds of a step, after some that are not counted."""
    gradient, durations, began = {"w": np.ones(n, np.float32)}, list[float](), time.monotonic()
    while (now := time.monotonic()) < began + WARM_UP_S + seconds:
        stream.step(gradient)
        if now > began + WARM_UP_S:
            durations.append(time.monotonic() - now)
    return statistics.median(durations)


class _Load:
    """The load's process: it is at work while a block runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> None:
        self._say("go\n")

    def __exit__(self, *_: object) -> None:
        self._say("\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        self._process.stdout.readline()


@contextlib.contextmanager
def _load(server: RunningServer, token: str, n: int, is_journalled: bool) -> Iterator[_Load]:
    arguments = [server.address, token, str(n), str(int(is_journalled))]
    command = [sys.executable, "-m", _load.__module__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield _Load(process)
        process.communicate()


def main() -> None:
    """Steps between the lines of its standard input."""
    # What is measured is the server's order of service, not that of the machine's processors.
    os.nice(5)
    address, token, n, journal = sys.argv[1:]
    is_over = threading.Event()

    def step(stream: optserve.StepStream) -> None:
        gradient = {"w": np.ones(int(n), np.float32)}
        while not is_over.is_set():
            stream.step(gradient)

    with optserve.connect(address, token=token, progress=False) as client, ThreadPoolExecutor() as pool:
        sessions = [_make_session(client, int(n), journal == "1") for _ in range(STREAMS)]
        streams = [session.stream(pull=True, shared_memory=False) for session in sessions]
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            if line.strip():
                is_over.clear()
                working = [pool.submit(step, stream) for stream in streams]
            else:
                is_over.set()
                for one in working:
                    one.result()
            print("done", flush=True)


if __name__ == "__main__":
    main()
