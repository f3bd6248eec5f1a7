"""A server of the demo's own: started on a free loopback port, stopped however the demo ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

READY_WITHIN = 120.0
STOPPED_WITHIN = 60.0
"""Seconds, generous: a slow machine may compile kernels, and calls in flight may end."""


@contextlib.contextmanager
def running_server(log: Path) -> Iterator[str]:
    """Runs a server and yields its address; stops it with SIGTERM.

    Args:
        log: the file that its log goes to.

    Raises:
        RuntimeError: it does not come up, or leaves with another exit code than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("w") as log_file:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "optserve_server", "--port", "0"]
        command += ["--port-file", str(port_file), "--log-level", "warning"]
        # In a session of its own, so that Ctrl-C reaches the demo alone, which stops the server.
        server = subprocess.Popen(command, stdout=log_file, stderr=log_file, start_new_session=True)
        try:
            yield f"127.0.0.1:{wait_for_port(server, port_file, log)}"
        finally:
            exit_code = stop(server)
    if exit_code != 0:
        raise RuntimeError(f"the server left with exit code {exit_code}; see {log}")


def wait_for_port(server: subprocess.Popen[bytes], port_file: Path, log: Path) -> int:
    """The port of the server, which writes it to a file once it is ready."""
    deadline = time.monotonic() + READY_WITHIN
    while not port_file.exists():
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start; see {log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server was not ready within {READY_WITHIN:.0f} seconds; see {log}")
        time.sleep(0.02)
    return int(port_file.read_text())


def stop(server: subprocess.Popen[bytes]) -> int:
    """Asks the server to end, makes sure that it does, and returns its exit code."""
    server.terminate()
    try:
        return server.wait(STOPPED_WITHIN)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()
