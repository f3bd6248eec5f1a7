"""Controller of a contender: starts its process, sends it commands, and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.worker import Parameters

ROOT = Path(__file__).parents[2]
START_SECONDS = 300.0
ANSWER_SECONDS = 120.0
STOP_SECONDS = 20.0


class ContenderError(Exception):
    """A contender did not start, or ended; the message holds the end of what it printed."""


class Remote:
    """A contender's process.

    Args:
        process: the process.
        log: the file that its standard error goes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log
        self.facts = self._answer(START_SECONDS)

    def time_steps(self, repeats: int) -> float:
        """Returns the seconds of ``repeats`` steps; a `benchmarks.timing.Timed`."""
        return float(self.ask(do="time", repeats=repeats)["seconds"])

    def rest(self) -> None:
        """Suspends its processes, so that it does not slow a contender that is measured."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Resumes its processes."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def time_alone(self, repeats: int) -> float:
        """Like `time_steps`, of a process that is stopped before and afterwards."""
        self.wake()
        try:
            return self.time_steps(repeats)
        finally:
            self.rest()

    def goes_on(self, seconds: float) -> None:
        """Asks it to step for ``seconds``; `durations` waits for the result."""
        self.tell(do="go on", seconds=seconds)

    def durations(self) -> list[float]:
        """The seconds of each step that `goes_on` asked for."""
        return list(self._answer(ANSWER_SECONDS)["seconds"])

    def check(self, **request: object) -> Parameters:
        """The parameters after three steps on `benchmarks.contenders.worker.gradients`, or what is asked."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "values.npy")
            self.ask(do="check", path=str(path), **request)
            values: Parameters = np.load(path)
            return values

    def ask(self, **request: object) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        self.tell(**request)
        return self._answer(ANSWER_SECONDS)

    def tell(self, **request: object) -> None:
        """Sends a request and does not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(self._last_words()) from None

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise ContenderError(self._last_words() if ready else f"no answer in {seconds:g} s")
        content: dict[str, Any] = json.loads(line)
        return content

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else "it ended without a word"


def contender(module: str, *arguments: object, **variables: str) -> contextlib.AbstractContextManager[Remote]:
    """Runs a contender until the block ends; see `contender_of`."""
    return contender_of(Path(sys.executable), module, *arguments, **variables)


@contextlib.contextmanager
def contender_of(python: Path, module: str, *arguments: object, **variables: str) -> Iterator[Remote]:
    """Runs a contender until the block ends.

    Args:
        python: its interpreter.
        module: its module in this package.
        arguments: of its command line.
        variables: of its environment.

    Raises:
        ContenderError: it does not start.
    """
    command = [str(python), "-m", f"benchmarks.contenders.{module}", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **variables},
            bufsize=0,
            process_group=0,
        )
        try:
            yield Remote(process, Path(folder, "log"))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Closes its standard input, which ends it, or stops it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    for stop in (None, process.terminate, process.kill):
        if stop is not None:
            stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            break
    process.stdout.close()
