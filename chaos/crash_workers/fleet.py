"""Processes of workers, which are killed, stopped and started again."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.server import environment


class Fleet:
    """All processes of workers.

    Args:
        folder: where their ledgers and logs are put.
        count: how many processes there are.
        workers: how many workers they have together.
        lease: of the workers, in seconds.
    """

    def __init__(self, folder: Path, count: int, workers: int, lease: float) -> None:
        self._folder, self._lease = folder, lease
        self._numbers = [range(place, workers, count) for place in range(count)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self._due: dict[int, float] = {}
        self._started = 0
        self._command: list[str] = []

    def start(self, server: str, session: str) -> None:
        """Starts all processes."""
        self._command = [sys.executable, "-m", "chaos.crash_workers.worker_process"]
        self._command += ["--server", server, "--session", session, "--lease", str(self._lease)]
        for place in range(len(self._processes)):
            self._start(place)

    def kill(self, places: Sequence[int], until: float) -> None:
        """Kills processes, to be started again at a moment of the monotonic clock."""
        for place in places:
            process = self._processes[place]
            if process is not None:
                process.kill()
                process.wait()
                self._processes[place] = None
            self._due[place] = until

    def stop(self, places: Sequence[int], until: float) -> None:
        """Stops processes without ending them, to go on at a moment of the monotonic clock."""
        for place in places:
            process = self._processes[place]
            if process is not None:
                process.send_signal(signal.SIGSTOP)
                self._due[place] = until

    @property
    def undisturbed(self) -> list[int]:
        """Places of the processes that run."""
        return [place for place in range(len(self._processes)) if place not in self._due]

    def tend(self) -> None:
        """Starts, or lets go on, what is due.

        Raises:
            RuntimeError: a process ended on its own.
        """
        for place, due in list(self._due.items()):
            if time.monotonic() < due:
                continue
            del self._due[place]
            process = self._processes[place]
            if process is None:
                self._start(place)
            else:
                process.send_signal(signal.SIGCONT)
        for place, process in enumerate(self._processes):
            if process is not None and process.poll() is not None:
                log = self._log(place).read_text()
                raise RuntimeError(f"worker process {place} ended on its own:\n{log}")

    def end(self) -> None:
        """Kills all processes."""
        for process in self._processes:
            if process is not None:
                process.kill()
                process.wait()

    def _start(self, place: int) -> None:
        self._started += 1
        workers = [str(number) for number in self._numbers[place]]
        ledger = self._folder / f"{self._started}.ledger"
        with self._log(place).open("ab") as log:
            self._processes[place] = subprocess.Popen(
                [*self._command, "--ledger", str(ledger), "--workers", *workers],
                stderr=log,
                env=environment(),
            )

    def _log(self, place: int) -> Path:
        return self._folder / f"{place}.log"


@contextlib.contextmanager
def fleet_of(folder: Path, count: int, workers: int, lease: float) -> Iterator[Fleet]:
    """A fleet that is ended with the block."""
    folder.mkdir()
    fleet = Fleet(folder, count, workers, lease)
    try:
        yield fleet
    finally:
        fleet.end()
