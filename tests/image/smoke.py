"""Trains against a container, kills it, and continues against the next one.

The environment's ``IMAGE`` and ``ENGINE`` name the image and what runs it; the defaults are
those of ``make image``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import optserve
from optserve_server import __version__
from tests.image.engines import OWNER, Container, Engine, engine, output

ROOT = Path(__file__).parents[2]

READY_SECONDS = 120.0
"""Bound on a start, which compiles kernels."""

STOP_SECONDS = 30.0
LOOPBACK = {
    "OPTSERVE_HOST": "127.0.0.1",
    "OPTSERVE_METRICS_HOST": "127.0.0.1",
    "OPTSERVE_PORT": "0",
    "OPTSERVE_DATA_PORT": "auto",
    "OPTSERVE_METRICS_PORT": "0",
}
"""Servers of tests listen on loopback alone, at ports that are free."""

TARGET = np.array([1.0, -2.0, 0.5], np.float32)


@dataclass
class Running:
    """A server in a container."""

    container: Container
    process: subprocess.Popen[bytes]
    log: Path
    address: str
    metrics_port: int

    def health(self) -> subprocess.CompletedProcess[str]:
        """Does what the engine does to learn about it, by the image's own words."""
        variables = LOOPBACK | {"OPTSERVE_METRICS_PORT": str(self.metrics_port)}
        command = self.container.beside(variables, "optserve-server", "health")
        return subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False)

    def end(self, number: signal.Signals) -> int:
        """Sends a signal; returns the exit status."""
        self.container.send(self.process, number)
        return self.process.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def built() -> Engine:
    """The image that was built."""
    image = os.environ.get("IMAGE") or f"optserve-server:{__version__}"
    return engine(output(str(ROOT / "deploy/engine.sh")), image)


@pytest.fixture
def volume(built: Engine) -> Iterator[str]:
    with built.volume() as name:
        yield name


@contextlib.contextmanager
def serving(built: Engine, volume: str, folder: Path) -> Iterator[Running]:
    """A new container over a volume, serving."""
    log_path = folder / f"log-{time.monotonic_ns()}"
    with built.container() as container:
        with log_path.open("wb") as log:
            process = subprocess.Popen(container.server(LOOPBACK, volume), stderr=log)
        try:
            told = listening(process, log_path)
            address = f"127.0.0.1:{told['port']}"
            yield Running(container, process, log_path, address, told["metrics_port"])
        finally:
            if process.poll() is None:
                container.send(process, signal.SIGKILL)
                process.wait(STOP_SECONDS)


def listening(process: subprocess.Popen[bytes], log: Path) -> dict[str, int]:
    """Returns the ports that the server reports when it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if '"message": "listening"' in line:
                told: dict[str, int] = json.loads(line)
                return told
        time.sleep(0.1)
    raise RuntimeError(f"the container did not serve:\n{log.read_text()}")


def train(session: optserve.SessionHandle, steps: int) -> None:
    w = session.pull()["w"]
    for _ in range(steps):
        w = session.step({"w": w - TARGET}, pull=True).parameters["w"]


def test_what_the_image_says(built: Engine) -> None:
    config = built.config
    assert config["User"] == f"{OWNER}:{OWNER}"
    assert config["Entrypoint"] == ["optserve-server"]
    assert config["Healthcheck"]["Test"] == ["CMD", "optserve-server", "health"]
    assert list(config["Volumes"]) == ["/var/lib/optserve"]
    assert {"50051/tcp", "9464/tcp"} <= config["ExposedPorts"].keys()
    assert config["Labels"]["org.opencontainers.image.title"] == "optserve-server"


def test_a_session_outlives_its_server(built: Engine, volume: str, tmp_path: Path) -> None:
    with serving(built, volume, tmp_path) as first, optserve.connect(first.address) as client:
        session = client.create_session(
            {"w": np.zeros(3, np.float32)}, optserve.optimizers.Adam(learning_rate=0.1), session_id="a"
        )
        train(session, 50)
        half = session.pull()["w"]
        assert session.step_number == 50
        assert first.end(signal.SIGKILL) != 0
    with serving(built, volume, tmp_path) as second, optserve.connect(second.address) as client:
        session = client.session("sessions/a")
        assert session.step_number == 50
        assert session.pull()["w"].tobytes() == half.tobytes()
        train(session, 250)
        assert np.allclose(session.pull()["w"], TARGET, atol=0.01)
        # A container has seconds to end in, and its entry point is process 1 or close to it.
        assert second.end(signal.SIGTERM) == 0
        assert '"message": "stopped"' in second.log.read_text()


def test_health_and_the_user(built: Engine, volume: str, tmp_path: Path) -> None:
    with serving(built, volume, tmp_path) as server:
        healthy = server.health()
        assert (healthy.returncode, healthy.stdout) == (0, '{"ready": true, "troubles": []}\n')
        ids = server.container.beside({}, "sh", "-c", "id -u; id -g")
        assert subprocess.run(ids, capture_output=True, text=True, timeout=30, check=True).stdout == (
            f"{OWNER}\n{OWNER}\n"
        )
        with optserve.connect(server.address) as client:
            client.create_session({"w": TARGET}, optserve.optimizers.Adam(), session_id="b")
            assert client.capabilities().backend == "numba"
        # Kernels are kept where the user may write, and nothing else is: not even the program.
        search = "find / -xdev -writable ! -type l ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*'"
        found = subprocess.run(
            server.container.beside({}, "sh", "-c", search),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout.split()
        own = [path for path in found if path.startswith(("/var/lib/optserve", "/var/cache/optserve"))]
        assert set(found) - set(own) <= {"/tmp", "/var/tmp", "/run/lock"}
        assert any(path.endswith(".nbi") for path in own)


def test_nothing_is_served_in_the_clear_beyond_loopback(built: Engine, volume: str) -> None:
    """The image listens on every address, and the server refuses that without TLS."""
    with built.container() as container:
        command = container.server({}, volume)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no TLS" in done.stderr
