"""The server of a command: a running one, or one that the command starts."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

COMMAND = "optserve-server"
READY_WITHIN = 60.0
STOPPED_WITHIN = 30.0
"""Seconds, generous: a slow machine may compile kernels."""


@contextlib.contextmanager
def local_server() -> Iterator[str]:
    """Runs a server on a free loopback port until the block ends, and yields its address.

    Raises:
        RuntimeError: the server is not installed, or does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        port_file, log = Path(folder, "port"), Path(folder, "log")
        command = [_find_executable(), "--host=127.0.0.1", "--port=0", f"--port-file={port_file}"]
        with log.open("wb") as log_file:
            # In a session of its own, so that Ctrl-C reaches this command alone, which stops it.
            server = subprocess.Popen(command, stdout=log_file, stderr=log_file, start_new_session=True)
        try:
            yield f"127.0.0.1:{_wait_for_port(server, port_file, log)}"
        finally:
            _stop_server(server)


def _find_executable() -> str:
    """The server's command, beside this interpreter or on the path."""
    beside = shutil.which(COMMAND, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(COMMAND)
    if found is None:
        raise RuntimeError(
            f"{COMMAND} is not installed here; install it, or name a running server with --server HOST:PORT"
        )
    return found


def _wait_for_port(server: subprocess.Popen[bytes], port_file: Path, log: Path) -> int:
    """The port, which the server writes to a file once it is ready."""
    deadline = time.monotonic() + READY_WITHIN
    while not port_file.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{COMMAND} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)
    return int(port_file.read_text())


def _stop_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
