"""A real server in a process of its own, on a free loopback port."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0
"""Bound on a start, the first of which may compile kernels."""

STOP_SECONDS = 30.0
"""Bound on an end."""


@dataclass
class RunningServer:
    """A server process.

    Attributes:
        address: where it listens, ``host:port``.
        process: the process.
        log_path: where its standard error goes.
    """

    address: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> list[dict[str, Any]]:
        """What it logged so far, without lines of gRPC's own."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self) -> int:
        """Sends SIGTERM and waits for the exit status."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


def command(*arguments: str, module: str = "optserve_server") -> list[str]:
    """The command line of a server."""
    return [sys.executable, "-m", module, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process' environment without settings of a server, and with ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPTSERVE_")}
    return kept | variables


def run_to_end(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, which must end within half a minute, and returns its result.

    Args:
        arguments: of its command line.
        variables: of its environment.
    """
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(**variables),
        check=False,
    )


@contextlib.contextmanager
def running_server(
    backend: str = "numpy",
    *,
    variables: Mapping[str, str] | None = None,
    module: str = "optserve_server",
    **flags: Any,
) -> Iterator[RunningServer]:
    """Runs a server until the block ends.

    Args:
        backend: what computes.
        variables: environment variables.
        module: what is run: the server, or something around it.
        flags: further settings by name, as in ``max_sessions=3``.
    """
    with tempfile.TemporaryDirectory() as folder:
        port_file, log_path = Path(folder, "port"), Path(folder, "log")
        settings = {"backend": backend, "port": 0, "port_file": port_file, "metrics_port": "off", **flags}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command(*arguments, module=module), stderr=log, env=environment(**(variables or {}))
            )
        try:
            port = _wait_for(port_file, process, log_path)
            yield RunningServer(f"127.0.0.1:{port}", process, log_path)
        finally:
            _end(process)


def _wait_for(port_file: Path, process: subprocess.Popen[bytes], log_path: Path) -> int:
    deadline = time.monotonic() + READY_SECONDS
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{log_path.read_text()}")
        time.sleep(0.02)
    return int(port_file.read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
        raise
