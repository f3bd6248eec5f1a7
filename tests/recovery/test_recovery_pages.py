"""The pages for operators while a server recovers."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from optserve_server.__main__ import main
from tests.recovery.keeping import house, run
from tests.support.server import READY_SECONDS, STOP_SECONDS, command, environment


def page(port: int, path: str) -> tuple[int, str]:
    """Status and text; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for_troubles(port: int, troubles: list[str], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not (text := page(port, "/readyz")[1]) or json.loads(text)["troubles"] != troubles:
        assert process.poll() is None
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


def test_pages_say_how_far_a_recovery_is(
    tmp_path: Path, unused_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recovery waits at a session whose manifest is a pipe, until the test has opened it."""
    root = tmp_path / "data"

    async def make() -> None:
        async with house(root) as made:
            for name in "abc":
                made.create(name)

    run(make())
    manifest = root / "sessions" / "b" / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    flags = ["--backend=numpy", "--port=0", f"--metrics-port={unused_port}", f"--data-dir={root}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(*flags), stderr=log, env=environment())
    try:
        wait_for_troubles(unused_port, ["recovering: 1 of 3 sessions"], process)
        status, text = page(unused_port, "/readyz")
        assert (status, json.loads(text)["ready"]) == (503, False)
        assert page(unused_port, "/healthz") == (200, "ok\n")
        status, text = page(unused_port, "/metrics")
        lines = text.splitlines()
        assert status == 200
        assert "optserve_ready 0.0" in lines
        assert "optserve_recovery_examined_sessions 1.0" in lines
        assert "optserve_recovery_known_sessions 3.0" in lines
        assert page(unused_port, "/")[0] == 404
        assert main(["health", f"--metrics-port={unused_port}"]) == 1
        assert "recovering: 1 of 3 sessions" in capsys.readouterr().out
        with manifest.open("wb"):
            pass
        wait_for_troubles(unused_port, [], process)
        lines = page(unused_port, "/metrics")[1].splitlines()
        assert "optserve_ready 1.0" in lines
        assert 'optserve_recovery_sessions{outcome="restored"} 2.0' in lines
        assert 'optserve_recovery_sessions{outcome="damaged"} 1.0' in lines
        assert page(unused_port, "/")[0] == 200
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
    finally:
        process.kill()
        process.wait(STOP_SECONDS)
