"""Commands in a terminal: what stays on the screen, recordings, and questions."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pyte
import pytest

import optserve
from tests.support.server import environment
from tests.support.terminal import COLUMNS, ROWS, open_terminal

RECORDINGS = Path(__file__).parents[3] / "build" / "recordings"
ONE = {"w": np.ones(3)}


@pytest.fixture
def start(secure):
    """Opens a terminal with a command in it."""

    def start(*words):
        command = [sys.executable, "-m", "optserve", *words]
        return open_terminal(command, environment(**secure.variables()))

    return start


def replay(path: Path) -> list[str]:
    """The last screen of a recording, as a player shows it."""
    header, *events = (json.loads(line) for line in path.read_text().splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, COLUMNS, ROWS)
    times = [seconds for seconds, _, _ in events]
    assert times == sorted(times)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    for _, kind, text in events:
        if kind == "o":
            stream.feed(text)
    return [line.rstrip() for line in screen.display if line.strip()]


def test_long_transfers_show_a_bar_and_remove_it(start, secure, tmp_path):
    credentials = optserve.tls.credentials(secure.ca)
    file = str(tmp_path / "session.safetensors")
    with optserve.connect(secure.address, token=secure.token, credentials=credentials) as client:
        session = client.create_session({"w": np.zeros(5_000_000)}, "sgd", session_id="long")
        try:
            for words, text in (
                (("pull", "long", "-o", str(tmp_path / "w.npz")), "pull"),
                (("push", "long", str(tmp_path / "w.npz")), "upload"),
                (("snapshot", "export", "long", "-o", file), "export"),
                (("snapshot", "import", file, "long-copy"), "import"),
            ):
                with start(*words) as terminal:
                    assert terminal.wait_for_end(60) == 0
                    assert not any("MiB" in line for line in terminal.lines)
                    events = terminal.save(tmp_path / "recording")
                shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "".join(event[2] for event in events))
                assert re.search(rf"{text} .*/38\.1 MiB", shown), shown
            client.session("long-copy").delete()
        finally:
            session.delete()


def test_watch_shows_events_as_they_happen(start, session):
    name = session.name.removeprefix("sessions/")
    with start("session", "watch", name) as terminal:
        terminal.wait_for(lambda lines: any("began" in line for line in lines))
        session.step(ONE)
        terminal.wait_for(lambda lines: any("step=1 " in line for line in lines))
        with session.join("anna"):
            terminal.wait_for(lambda lines: any("worker=anna" in line for line in lines))
        session.update(optserve.SessionSpec(optserve.optimizers.Adam()))
        session.push({"w": np.zeros(3)})
        session.delete()
        assert terminal.wait_for_end() == 0
        terminal.save(RECORDINGS / "session_watch.cast")
    screen = replay(RECORDINGS / "session_watch.cast")
    events = [line for line in screen if re.match(r"\d\d:\d\d:\d\d ", line)]  # without broken lines
    assert [line.split()[1] for line in events] == [
        "began",
        "step",
        "joined",
        "ended",
        "updated",
        "pushed",
        "deleted",
    ]
    assert f"name={name}" in events[0]
    assert "learning_rate=1 gradient_norm=1.73205 outcome=APPLIED" in events[1]
    assert "worker=anna epoch=1 state=LEFT" in events[3]


def row_of(lines: list[str], name: str) -> tuple[int, float]:
    """Step and steps per second of a session; -1 for both while its row is not drawn completely."""
    words = next((line.split() for line in lines if line.startswith(name)), [])
    return (int(words[1]), float(words[2])) if words[-1:] == ["yes"] else (-1, -1.0)


def test_top_shows_the_speed_of_each_session(start, session, secure):
    name = session.name.removeprefix("sessions/")
    ended = threading.Event()

    def train():
        while not ended.wait(0.01):
            session.step(ONE)

    training = threading.Thread(target=train)
    training.start()
    try:
        with start("session", "top", "--interval", "0.2") as terminal:
            first, _ = row_of(terminal.wait_for(lambda lines: row_of(lines, name)[0] >= 0), name)
            terminal.wait_for(lambda lines: row_of(lines, name)[0] > first + 10)
            lines = terminal.wait_for(lambda lines: row_of(lines, name)[1] > 1)
            assert secure.address in lines[0]
            assert "steps/s" in lines[0]
            assert lines[1].split()[:3] == ["NAME", "STEP", "STEPS"]
            assert lines[2].startswith(name)  # the fastest is the first
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait_for_end() == 0
            events = terminal.save(RECORDINGS / "session_top.cast")
    finally:
        ended.set()
        training.join()
    output = "".join(text for _, kind, text in events if kind == "o")
    assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1  # the screen is restored
    assert replay(RECORDINGS / "session_top.cast")


def test_a_command_that_destroys_asks(start, session):
    name = session.name.removeprefix("sessions/")
    with start("session", "rm", name) as terminal:
        terminal.wait_for(lambda lines: lines[-1:] == [f"Delete {name}? [y/N]"])
        terminal.type("n\n")
        assert terminal.wait_for_end() == 2
        assert terminal.lines[-1] == "optserve: nothing was changed"
    assert session.get().step == 0
    with start("session", "rm", name) as terminal:
        terminal.wait_for(lambda lines: lines[-1:] == [f"Delete {name}? [y/N]"])
        terminal.type("y\n")
        assert terminal.wait_for_end() == 0
    with pytest.raises(optserve.errors.NotFound):
        session.get()


def test_names_of_workers_cannot_control_the_terminal(start, session):
    with session.join("\x1b[2Jmallory"), start("worker", "ls", session.name) as terminal:
        assert terminal.wait_for_end() == 0
        assert any(line.startswith("\\x1b[2Jmallory") for line in terminal.lines)
