"""A program in a terminal: what its screen shows, and a recording that asciinema plays."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyte

COLUMNS, ROWS = 120, 16


class Terminal:
    """A pseudo-terminal with a program in it.

    Args:
        command: the program and its arguments.
        variables: its environment.

    Attributes:
        process: the program.
    """

    def __init__(self, command: list[str], variables: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._began = time.monotonic()
        self._events: list[tuple[float, str, str]] = []
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True
        )
        os.close(slave)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen that have text."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, condition: Callable[[list[str]], bool], seconds: float = 20.0) -> list[str]:
        """Reads until the screen meets a condition; returns its lines."""
        deadline = time.monotonic() + seconds
        while not condition(self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            self._read()
        return self.lines

    def wait_for_end(self, seconds: float = 20.0) -> int:
        """Reads until the program has ended; returns its exit status."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, "\n".join(self.lines)
        return self.process.wait(seconds)

    def type(self, text: str) -> None:
        """Types keys."""
        self._events.append((time.monotonic() - self._began, "i", text))
        os.write(self._master, text.encode())

    def save(self, path: Path) -> list[tuple[float, str, str]]:
        """Writes a recording in the format of asciinema, version 2; returns its events."""
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "env": {"TERM": "xterm-256color"}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in [header, *self._events]))
        return self._events

    def close(self) -> None:
        """Ends the program if it is running."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        """Reads what there is within a moment; returns False at the end."""
        if not select.select([self._master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # how Linux reports that the program has closed its side
            return False
        self._events.append((time.monotonic() - self._began, "o", data.decode(errors="replace")))
        self._stream.feed(data)
        return bool(data)


@contextlib.contextmanager
def open_terminal(command: list[str], variables: Mapping[str, str]) -> Iterator[Terminal]:
    """Runs a program in a terminal until the block ends."""
    # Programs ask the terminal for its size, unless these variables state one.
    kept = {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")}
    terminal = Terminal(command, {**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})
    try:
        yield terminal
    finally:
        terminal.close()
