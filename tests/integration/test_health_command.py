"""``optserve-server health``, as container engines run it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from optserve_server.__main__ import main
from optserve_server.operations.http_server import HttpRequest, HttpResponse, HttpServer
from tests.support.server import run_to_end, running_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a ready server's pages."""
    with running_server(metrics_port=0) as server:
        (listening,) = [line for line in server.log() if line["message"] == "listening"]
        yield listening["metrics_port"]


def health(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_to_end("health", *flags, **variables)


def test_a_ready_server(port: int) -> None:
    """Where the settings say that a server listens on every address, it is asked on loopback."""
    done = health(OPTSERVE_METRICS_HOST="0.0.0.0", OPTSERVE_METRICS_PORT=str(port))
    assert (done.returncode, done.stdout) == (0, '{"ready": true, "troubles": []}\n')
    assert health(f"--metrics-port={port}").returncode == 0


def test_no_server(unused_port: int) -> None:
    done = health(f"--metrics-port={unused_port}")
    assert done.returncode == 1
    assert done.stdout.startswith(f"no answer from 127.0.0.1, port {unused_port}: ")


@pytest.mark.parametrize("flag", ["--metrics-port=off", "--metrics-port=many"])
def test_nothing_to_ask(flag: str) -> None:
    done = health(flag)
    assert done.returncode == 2
    assert done.stderr.startswith("optserve-server health: metrics_port is ")


def test_a_server_in_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    async def readyz(request: HttpRequest) -> HttpResponse:
        return HttpResponse(503, "application/json", b'{"ready": false}\n')

    async def ask() -> int:
        pages = HttpServer({"/readyz": readyz})
        port = await pages.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(main, ["health", f"--metrics-port={port}"])
        finally:
            await pages.stop()

    assert asyncio.run(ask()) == 1
    assert capsys.readouterr().out == '{"ready": false}\n'


def test_asking_loads_no_server() -> None:
    """Engines ask every few seconds, so it must not cost what loading a server costs."""
    text = "import sys, optserve_server.__main__ as m; print({'numpy', 'grpc'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "set()\n"
