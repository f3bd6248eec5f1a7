"""The demo, shortened: it trains, reports and draws, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ("--iris-epochs", "20")
LONG = ("--iris-epochs", "100000")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts demos, and ends those that a test leaves."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--out", str(tmp_path), *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def port_in(text: str) -> int:
    """The port of the server that the demo says it trains on."""
    found = re.search(r"server at 127\.0\.0\.1:(\d+)", text)
    assert found, text
    return int(found[1])


def answers(port: int) -> bool:
    """Whether anything listens on that port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_trains_and_reports(demo, tmp_path: Path) -> None:
    process = demo(*SHORT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    rows = {
        name: row.split()
        for name, row in re.findall(r"^(SGD|momentum|AdaGrad|RMSProp|Adam)\s+(.*)$", out, re.M)
    }
    assert list(rows) == ["SGD", "momentum", "AdaGrad", "RMSProp", "Adam"]
    # The loss starts near 0.22, that of three equal probabilities.
    assert all(0 < float(loss) < 0.2 and float(speed) > 0 for loss, _, speed in rows.values())
    accuracy = re.search(r"^digits: ([\d.]+)%", out, re.M)
    assert accuracy
    assert float(accuracy[1]) > 96
    assert (tmp_path / "curves.svg").read_text().rstrip().endswith("</svg>")
    assert not answers(port_in(out))


@pytest.mark.slow
def test_too_low_an_accuracy_fails(demo) -> None:
    process = demo("--iris-epochs", "1", "--digits-epochs", "1", "--wanted-accuracy", "0.999")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "NOT more" in out
    assert not answers(port_in(out))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_no_server(demo, number: signal.Signals, code: int) -> None:
    process = demo(*LONG)
    port = port_in(process.stdout.readline())
    assert answers(port)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert not answers(port)
