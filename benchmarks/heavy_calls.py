"""Small steps beside each call that does much at once: how long the event loop is held.

``python -m benchmarks.heavy_calls ADDRESS`` is the client of the small steps: it steps until
its standard input closes, and then writes when each step began and ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import optserve
from benchmarks.options import Options
from benchmarks.results import Finding, Result
from tests.support.server import running_server

GROUP = "heavy calls"
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
"""Between two small steps: a step that waits for the loop must not be all that is sent meanwhile."""


def run(options: Options) -> Iterator[Finding]:
    """Milliseconds of the slowest hundredth of small steps beside each call, and beside none."""
    with tempfile.TemporaryDirectory() as folder:
        # A kernel cache of its own, so that kernels are compiled.
        variables = {
            "XDG_CACHE_HOME": str(Path(folder, "cache")),
            "NUMBA_CACHE_DIR": str(Path(folder, "numba")),
        }
        with (
            running_server("auto", variables=variables, data_dir=Path(folder, "data")) as server,
            optserve.connect(server.address, progress=False, timeout=600) as client,
        ):
            calls = heavy_calls(client, options.seconds)
            with subprocess.Popen(
                [sys.executable, "-m", run.__module__, server.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as steps:
                assert steps.stdout is not None
                steps.stdout.readline()
                spans: dict[str, list[tuple[float, float]]] = {}
                for _ in range(min(options.rounds, len(OPTIMIZERS))):
                    for name, call in calls.items():
                        begun = time.monotonic()
                        call()
                        spans.setdefault(name, []).append((begun, time.monotonic()))
                text, _ = steps.communicate()
    taken = np.array(json.loads(text))
    for name, found in spans.items():
        beside = [taken[(taken[:, 1] > begun) & (taken[:, 0] < ended)] for begun, ended in found]
        seconds = np.concatenate(beside) @ [-1, 1]
        yield Result(GROUP, name, len(seconds), float(np.percentile(seconds, 99) * 1e3), "ms")


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

    def calls(self) -> dict[str, Callable[[], object]]:
        """The calls by name, in the order in which they build on each other."""
        return {
            "create": self.create,
            "describe": lambda: self._client.session(self.handle.name),
            "step": lambda: self.handle.step(self._gradients),
            "pull": lambda: self.handle.pull(),
            "snapshot": lambda: self.handle.snapshots.create(),
            "restore": lambda: self.handle.snapshots.restore(self.handle.snapshots.list()[0].step),
        }


def heavy_calls(client: optserve.Client, seconds: float) -> dict[str, Callable[[], object]]:
    """The calls by name, in the order in which they are to be made."""
    many = {f"layer{index}/weight": np.ones(8, np.float32) for index in range(MANY_TENSORS)}
    zeros = optserve.Initialized((LARGE,), np.float32, optserve.initializers.Zeros())
    sessions = {
        "40,000 tensors": Session(client, many, many),
        "100 MB": Session(client, {"w": zeros}, {"w": np.ones(LARGE, np.float32)}),
    }
    optimizers = iter(OPTIMIZERS)

    def compile_kernels() -> None:
        """Makes a session of an optimizer that none has had before."""
        client.create_session({"w": np.ones(8, np.float32)}, next(optimizers)()).delete()

    calls: dict[str, Callable[[], object]] = {
        "nothing": lambda: time.sleep(max(seconds, 1.0)),
        "compile kernels": compile_kernels,
    }
    for kind, session in sessions.items():
        calls |= {f"{name}, {kind}": call for name, call in session.calls().items()}
    return calls


def main() -> None:
    """Takes small steps until standard input closes."""
    closed = threading.Event()

    def wait_for_end_of_input() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    spans = []
    with optserve.connect(sys.argv[1], data_connections=False, shared_memory=False) as client:
        session = client.create_session({"w": np.zeros(100, np.float32)}, optserve.optimizers.Adam())
        gradients = {"w": np.ones(100, np.float32)}
        with session.stream() as stream:
            stream.step(gradients)
            print("ready", flush=True)
            while not closed.is_set():
                begun = time.monotonic()
                stream.step(gradients)
                spans.append((begun, time.monotonic()))
                time.sleep(PAUSE_S)
    print(json.dumps(spans))


if __name__ == "__main__":
    main()
