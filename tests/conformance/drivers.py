"""Clients' conformance drivers as subprocesses.

A client joins the corpus with one entry in `DRIVERS`: the command line of its driver, to
which the server's address is added. proto/optserve/conformance/v1/driver.proto says how a
driver behaves.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from clients.python.conformance.stubs.driver_pb2 import DriverRequest, DriverResponse
from tests.conformance.calls import answer_in, request_of
from tests.conformance.tasks import Answer, Task

ROOT = Path(__file__).parents[2]

DRIVERS: Mapping[str, Sequence[str]] = {
    "python": (sys.executable, "clients/python/conformance/driver.py"),
    "go": ("build/clients/go/conformance",),
    "typescript": ("node", "clients/typescript/build/conformance/driver.js"),
    "rust": ("build/clients/rust/debug/examples/conformance",),
    "java": ("java", "@clients/java/target/java.args", "dev.optserve.conformance.Driver"),
    "cpp": ("build/clients/cpp/conformance/optserve_conformance",),
}
"""Command lines by client, to be run from the root of the repository."""

PREFIX_BYTES = 4
ANSWER_SECONDS = 60.0
"""Bound on an answer; the first of a program makes the server compile it."""

END_SECONDS = 20.0
"""Bound on the end of a driver after that of its input."""


class Driver:
    """A running driver, which is a runner of cases.

    Args:
        process: the driver, its pipes unbuffered.
        log: what it writes to standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._log = process, log
        self._requests, self._responses = process.stdin, process.stdout
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._responses, selectors.EVENT_READ)

    def __call__(self, task: Task) -> Answer:
        return answer_in(task, self.exchange(request_of(task)))

    def exchange(self, request: DriverRequest) -> DriverResponse:
        """Sends a request and waits for its answer.

        Raises:
            RuntimeError: the driver ended, or does not answer in time.
        """
        body = request.SerializeToString()
        try:
            self._requests.write(len(body).to_bytes(PREFIX_BYTES, "big") + body)
        except BrokenPipeError:
            raise RuntimeError(f"the driver has ended:\n{self._read_log()}") from None
        deadline = time.monotonic() + ANSWER_SECONDS
        length = int.from_bytes(self._read(PREFIX_BYTES, deadline), "big")
        return DriverResponse.FromString(self._read(length, deadline))

    def peak_bytes(self) -> int | None:
        """Largest resident set of the process so far; None if the system does not tell.

        getrusage in the process itself counts its parent's memory before the fork as well.
        """
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None

    def close(self) -> int:
        """Ends the driver's input and returns its exit status."""
        self._ready.close()
        self._requests.close()
        try:
            return self._process.wait(END_SECONDS)
        finally:
            self._process.kill()
            self._process.wait(END_SECONDS)
            self._responses.close()

    def _read(self, count: int, deadline: float) -> bytes:
        received = b""
        while len(received) < count:
            if not self._ready.select(max(0.0, deadline - time.monotonic())):
                raise RuntimeError(f"no answer within {ANSWER_SECONDS:.0f} s:\n{self._read_log()}")
            piece = self._responses.read(count - len(received))
            if not piece:
                raise RuntimeError(f"the driver ended instead of answering:\n{self._read_log()}")
            received += piece
        return received

    def _read_log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-2000:]


@contextlib.contextmanager
def running_driver(command: Sequence[str], address: str) -> Iterator[Driver]:
    """Runs a driver against a server until the block ends.

    Raises:
        RuntimeError: at the end, the driver's exit status is not 0.
    """
    with tempfile.TemporaryFile() as log:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*command, address], bufsize=0, stdin=pipe, stdout=pipe, stderr=log, cwd=ROOT, env=os.environ
        )
        driver = Driver(process, log)
        try:
            yield driver
        except BaseException:
            process.kill()
            raise
        finally:
            status = driver.close()
        if status:
            raise RuntimeError(f"the driver ended with status {status}")
