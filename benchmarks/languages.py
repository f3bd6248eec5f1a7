"""Steps of the clients in every language, beside a bare exchange of the same bytes in the same language.

Each way is measured by a driver process of its own, so that its peak memory is that way's alone. All steps of
a language are taken on one server; all exchanges are with one echo server.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bounds import SIZES
from benchmarks.options import Options
from benchmarks.results import Failure, Finding, Result
from benchmarks.timing import interleave
from clients.python.conformance.stubs import driver_pb2 as pb
from tests.conformance.drivers import DRIVERS, ROOT, Driver, running_driver
from tests.support.server import running_server

GROUP = "languages"
ECHO = "echo"
WAYS = {
    "stream": pb.WAY_STREAM,
    "data connection": pb.WAY_DATA_CONNECTION,
    "handle": pb.WAY_HANDLE,
    ECHO: pb.WAY_ECHO,
}
CHUNK_BYTES = 1 << 20


class UnsupportedWay(Exception):
    """The client does not have this way."""


@dataclass
class Way:
    """One way of one client, measured by its driver.

    Args:
        driver: the client's, used for this way alone.
        way: which way.
        n: number of elements.
        target: the server's address.

    Attributes:
        peak_bytes: largest resident set of the driver so far.
    """

    driver: Driver
    way: pb.Way.ValueType
    n: int
    target: str
    peak_bytes: int = 0

    def time_steps(self, repeats: int) -> float:
        """Seconds that a number of steps, or exchanges, take.

        Raises:
            UnsupportedWay: the client does not have this way.
            RuntimeError: the driver failed.
        """
        call = pb.TimeCall(
            elements=self.n, way=self.way, repeats=repeats, target=self.target, chunk_bytes=CHUNK_BYTES
        )
        response = self.driver.exchange(pb.DriverRequest(time=call))
        if response.HasField("unsupported"):
            raise UnsupportedWay
        if not response.HasField("time"):
            raise RuntimeError(str(response))
        self.peak_bytes = self.driver.peak_bytes() or response.time.peak_bytes
        return response.time.seconds


def run(options: Options) -> Iterator[Finding]:
    """Steps a second of each language and way, their ratio to the exchanges, and megabytes of memory."""
    with running_echo() as echo:
        for n in options.sizes_of(SIZES):
            for language, command in DRIVERS.items():
                try:
                    check_built(language, command[-1])
                    with running_server("numba") as server:
                        yield from _measure(language, n, server.address, echo, options)
                except (RuntimeError, OSError) as error:
                    yield Failure(GROUP, language, n, str(error))


def _measure(language: str, n: int, server: str, echo: str, options: Options) -> Iterator[Finding]:
    ways: dict[str, Way] = {}
    with contextlib.ExitStack() as stack:
        for name, number in WAYS.items():
            driver = stack.enter_context(running_driver(DRIVERS[language], server))
            way = Way(driver, number, n, echo if name == ECHO else server)
            try:
                way.time_steps(1)
            except UnsupportedWay:
                continue
            ways[f"{language}, {name}"] = way
        timed = {name: way.time_steps for name, way in ways.items()}
        times = interleave(timed, options.rounds, options.seconds)
    bare = f"{language}, {ECHO}"
    for name, way in ways.items():
        yield from times.rates(GROUP, name, n, "steps/s", 1.0, "" if name == bare else bare)
        yield Result(GROUP, f"{name}, peak memory", n, way.peak_bytes / 1e6, "MB")


def check_built(language: str, program: str) -> None:
    """Checks that a driver is there.

    Raises:
        RuntimeError: it is not; the text says what builds it.
    """
    if not Path(ROOT, program).exists() and shutil.which(program) is None:
        raise RuntimeError(f"its driver is not built: make driver-{language}")


@contextlib.contextmanager
def running_echo() -> Iterator[str]:
    """The address of an echo server, as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.contenders.echo_service"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
