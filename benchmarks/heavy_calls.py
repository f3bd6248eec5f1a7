"""Small steps and health checks beside each call that does much at once: how long the event loop is held.

``python -m benchmarks.heavy_calls ADDRESS METRICS_PORT`` is their client, with a process of its own for
each: it repeats its call until standard input closes, and then writes when each began and ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import optserve
from benchmarks.contenders.probed_server import Sample, run_probed_server
from benchmarks.options import Options
from benchmarks.results import Finding, Result

GROUP, HEALTH_GROUP = "heavy calls", "heavy calls, /healthz"
MAX_P99_MS, MAX_HEALTH_MS = 20.0, 100.0
MAX_ROUNDS = 3
MANY_TENSORS = 40_000
LARGE = 25_000_000
"""Elements of the large session."""

OPTIMIZERS = (
    optserve.optimizers.Adan,
    optserve.optimizers.Yogi,
    optserve.optimizers.Lion,
    optserve.optimizers.Momentum,
    optserve.optimizers.Adagrad,
)
"""Each compiles kernels of its own."""

PAUSE_S = 0.001
"""Between two small calls: one that waits for the loop must not be the only one that was sent meanwhile."""

Span = tuple[float, float]
"""Monotonic times of a beginning and an end."""


def run(options: Options) -> Iterator[Finding]:
    """Milliseconds of small steps (99th percentile) and of health checks (worst) beside each call."""
    with tempfile.TemporaryDirectory(dir=build_folder()) as folder:
        # A kernel cache of its own, so that kernels are compiled.
        variables = {
            "XDG_CACHE_HOME": str(Path(folder, "cache")),
            "NUMBA_CACHE_DIR": str(Path(folder, "numba")),
        }
        settings: dict[str, Any] = {"data_dir": Path(folder, "data"), "metrics_port": 0}
        with (
            run_probed_server("auto", variables=variables, **settings) as (server, probe),
            optserve.connect(server.address, progress=False, timeout=600) as client,
        ):
            (port,) = (line["metrics_port"] for line in server.log() if "metrics_port" in line)
            calls = heavy_calls(client, options)
            spans: dict[str, list[Span]] = {}
            with repeating("steps", server.address) as steps, repeating("health", port) as checks:
                probe.stacks()
                for _ in range(min(options.rounds, len(OPTIMIZERS), MAX_ROUNDS)):
                    for name, call in calls.items():
                        begun = time.monotonic()
                        call()
                        spans.setdefault(name, []).append((begun, time.monotonic()))
            samples = probe.stacks()
            for name, found in spans.items():
                for group, small, limit in (
                    (GROUP, _beside(steps, found), MAX_P99_MS),
                    (HEALTH_GROUP, _beside(checks, found), MAX_HEALTH_MS),
                ):
                    if small:
                        value = float(np.percentile(_ms(small), 99 if group == GROUP else 100))
                        note = _describe_stalls(samples, small, limit) if value > limit else ""
                        yield Result(group, name, len(small), value, "ms", note=note)


def build_folder() -> Path:
    """Returns a folder on the disk of the working folder, which may not be in memory."""
    folder = Path("build")
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def repeating(kind: str, target: object) -> Iterator[list[Span]]:
    """Repeats a small call in a process of its own; the list gets its spans when the block ends."""
    spans: list[Span] = []
    command = [sys.executable, "-m", repeating.__module__, kind, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield spans
        finally:
            text, _ = process.communicate()
    spans += json.loads(text)


def _beside(small: Sequence[Span], heavy: Sequence[Span]) -> list[Span]:
    """Returns the small calls that were in flight during any of the heavy ones."""
    return [s for s in small if any(s[1] > begun and s[0] < ended for begun, ended in heavy)]


def _ms(spans: Sequence[Span]) -> list[float]:
    return [(ended - begun) * 1e3 for begun, ended in spans]


def _describe_stalls(samples: Sequence[Sample], spans: Sequence[Span], limit_ms: float) -> str:
    """Returns what the event loop's thread did during the calls that took longer than the limit."""
    slow = [span for span in spans if span[1] - span[0] > limit_ms / 1e3]
    seen = Counter(text for at, text in samples if any(begun < at < ended for begun, ended in slow))
    return "; ".join(f"{count}x {text}" for text, count in seen.most_common(4))


class Session:
    """A session on which much is done at once.

    Args:
        client: of the server.
        parameters: of the session.
        gradients: of a step.
    """

    def __init__(
        self, client: optserve.Client, parameters: Mapping[str, Any], gradients: Mapping[str, Any]
    ) -> None:
        self._client, self._parameters, self._gradients = client, parameters, gradients
        self._handle: optserve.SessionHandle | None = None

    @property
    def handle(self) -> optserve.SessionHandle:
        """The session that the last `create` made."""
        assert self._handle is not None
        return self._handle

    def create(self) -> None:
        """Creates the session again."""
        if self._handle is not None:
            self._handle.delete()
        self._handle = self._client.create_session(self._parameters, optserve.optimizers.Adam())

    def step(self, over: str) -> None:
        """Opens a stream and takes a step, so that a plan is made."""
        with self.handle.stream(pull=True, shared_memory=over == "shared") as stream:
            stream.step(self._gradients)

    def update(self) -> None:
        """Replaces the optimizer."""
        spec = dataclasses.replace(self.handle.spec, optimizer=optserve.optimizers.AdamW())
        self.handle.update(spec)

    def calls(self) -> dict[str, Callable[[], object]]:
        """Returns the calls by name, in the order in which they build on each other."""
        return {
            "create": self.create,
            "describe": lambda: self._client.session(self.handle.name),
            "list": lambda: list(self._client.sessions()),
            "first step of a stream": lambda: self.step("sent"),
            "first step in shared memory": lambda: self.step("shared"),
            "pull": lambda: self.handle.pull(),
            "push": lambda: self.handle.push(self._gradients),
            "snapshot": lambda: self.handle.snapshots.create(),
            "restore": lambda: self.handle.snapshots.restore(self.handle.snapshots.list()[0].step),
            "update": self.update,
        }


def heavy_calls(client: optserve.Client, options: Options) -> dict[str, Callable[[], object]]:
    """Returns the calls by name, in the order in which they are to be made."""
    tensors, large = (MANY_TENSORS, LARGE) if options.sizes is None else (MANY_TENSORS, max(options.sizes))
    many = {f"layer{index}/weight": np.ones(8, np.float32) for index in range(tensors)}
    zeros = optserve.Initialized((large,), np.float32, optserve.initializers.Zeros())
    sessions = {
        f"{tensors:,} tensors": Session(client, many, many),
        f"{4 * large / 1e6:g} MB": Session(client, {"w": zeros}, {"w": np.ones(large, np.float32)}),
    }
    optimizers = iter(OPTIMIZERS)

    def compile_kernels() -> None:
        """Makes a session of an optimizer that none has had before."""
        client.create_session({"w": np.ones(8, np.float32)}, next(optimizers)()).delete()

    calls: dict[str, Callable[[], object]] = {
        "nothing": lambda: time.sleep(max(options.seconds, 1.0)),
        "compile kernels": compile_kernels,
    }
    for kind, session in sessions.items():
        calls |= {f"{name}, {kind}": call for name, call in session.calls().items()}
    return calls


def main() -> None:
    """Repeats a small call until standard input closes."""
    closed = threading.Event()

    def wait_for_end_of_input() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    spans = []
    with {"steps": small_steps, "health": health_checks}[sys.argv[1]](sys.argv[2]) as call:
        call()
        print("ready", flush=True)
        while not closed.is_set():
            begun = time.monotonic()
            call()
            spans.append((begun, time.monotonic()))
            time.sleep(PAUSE_S)
    print(json.dumps(spans))


@contextlib.contextmanager
def small_steps(address: str) -> Iterator[Callable[[], object]]:
    """Gives a step of 100 parameters."""
    with optserve.connect(address, data_connections=False, shared_memory=False) as client:
        session = client.create_session({"w": np.zeros(100, np.float32)}, optserve.optimizers.Adam())
        gradients = {"w": np.ones(100, np.float32)}
        with session.stream() as stream:
            yield lambda: stream.step(gradients)


@contextlib.contextmanager
def health_checks(port: str) -> Iterator[Callable[[], object]]:
    """Gives a request of /healthz."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)

    def check() -> None:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"/healthz answered {answer.status}")

    with contextlib.closing(connection):
        yield check


if __name__ == "__main__":
    main()
