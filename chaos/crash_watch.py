"""Kills a server and the command that records its history, and looks whether each step is recorded once.

    python -m chaos.crash_watch --kills 100

A client trains all the time. Every other kill is the server's, and every other one that of ``optserve watch
--tensorboard``; both are by SIGKILL at a random moment after steps were taken and recorded. After each third
kill of the command, the last event file is shortened by some bytes, as by a write that was cut off. In the
end TensorBoard's own readers must find every committed step exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import optserve
from optserve import errors
from tests.support.server import RunningServer, environment, running_server

SESSION, TAG = "trained", "step/learning_rate"
STEP_PERIOD_S = 0.01
MAX_SECONDS = 0.5
"""Bound on the time that something which makes progress still has."""

CATCH_UP_S = 60.0
"""Bound on the time until further steps are taken or recorded."""


@dataclass
class Tally:
    """What happened.

    Attributes:
        server_kills: how often the server was killed.
        watch_kills: how often the command was killed.
        torn: how often an event file was shortened.
        steps: committed steps.
        files: event files.
    """

    server_kills: int = 0
    watch_kills: int = 0
    torn: int = 0
    steps: int = 0
    files: int = 0

    def lines(self) -> list[str]:
        """The tally for people."""
        return [
            f"{self.server_kills:6}  kills of the server",
            f"{self.watch_kills:6}  kills of the command, {self.torn} of them with a torn record",
            f"{self.steps:6}  committed steps, each recorded once, in {self.files} event files",
        ]


class Trainer(threading.Thread):
    """Takes steps until `end` is called; each is repeated until it is acknowledged.

    Attributes:
        acknowledged: number of steps.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._address = address
        self._over = threading.Event()

    def run(self) -> None:
        """Trains."""
        try:
            with optserve.connect(self._address, timeout=10) as client:
                session = client.session(SESSION)
                while not self._over.wait(STEP_PERIOD_S):
                    gradient = {"w": np.full(8, self.acknowledged + 1.0)}
                    while not self._over.is_set():
                        with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):
                            session.step(gradient)
                            self.acknowledged += 1
                            break
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        """Ends it.

        Raises:
            BaseException: what it failed with.
        """
        self._over.set()
        self.join(60)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


def crash_watch(kills: int, seed: int, folder: Path, *, verbose: bool = False) -> Tally:
    """Kills servers and commands.

    Args:
        kills: how many times.
        seed: of everything that is drawn here; the moments are the machine's own.
        folder: an empty folder.
        verbose: whether to say so as it goes.

    Raises:
        AssertionError: a step is missing, or recorded twice.
    """
    rng, tally, logs = random.Random(seed), Tally(), folder / "logs"
    stack = contextlib.ExitStack()
    server = stack.enter_context(running_server(data_dir=folder / "data"))
    port = int(server.address.rsplit(":", 1)[1])
    with optserve.connect(server.address) as client:
        rule = optserve.optimizers.Adam(learning_rate=0.01)
        client.create_session({"w": np.zeros(8)}, rule, session_id=SESSION)
    trainer, watch = Trainer(server.address), start_watch(server, logs)
    trainer.start()
    try:
        for number in range(kills):
            _wait_for_progress(trainer, logs / SESSION)
            time.sleep(rng.uniform(0, MAX_SECONDS))
            if number % 2:
                _kill(watch)
                tally.watch_kills += 1
                tally.torn += tally.watch_kills % 3 == 0 and tear(logs / SESSION, rng)
                watch = start_watch(server, logs)
            else:
                _kill(server.process)
                tally.server_kills += 1
                stack.close()
                server = stack.enter_context(running_server(data_dir=folder / "data", port=port))
            if verbose:
                print(f"{number + 1:4}  step {trainer.acknowledged}", flush=True)
        trainer.end()
        with optserve.connect(server.address) as client:
            tally.steps = client.session(SESSION).get().step
            assert tally.steps >= trainer.acknowledged
            wait_until(lambda: find_last_step(logs / SESSION) >= tally.steps)
            client.session(SESSION).delete()
            assert watch.wait(CATCH_UP_S) == 0
    finally:
        trainer.end()
        _kill(watch)
        stack.close()
    check(logs / SESSION, tally.steps)
    tally.files = len(list_files(logs / SESSION))
    return tally


def start_watch(server: RunningServer, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Starts ``optserve watch --tensorboard`` for the session."""
    command = ["watch", "--server", server.address, "--tensorboard", str(folder), *(words or (SESSION,))]
    return subprocess.Popen(
        [sys.executable, "-m", "optserve", *command], stdout=subprocess.DEVNULL, env=environment()
    )


def list_files(folder: Path) -> list[Path]:
    """The event files of a run."""
    return sorted(folder.glob("events.out.tfevents.*"))


def tear(folder: Path, rng: random.Random) -> bool:
    """Cuts bytes off the last event file, fewer than its last record has; False if there is none."""
    for path in reversed(list_files(folder)):
        if records := _measure_records(path):
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - rng.randrange(1, records[-1]))
            return True
    return False


def find_last_step(folder: Path) -> int:
    """The last recorded step, of the last file; 0 if it has none."""
    events = EventFileLoader(str(list_files(folder)[-1])).Load()
    return max((event.step for event in events), default=0)


def count_points(folder: Path, tag: str) -> Counter[int]:
    """Points by step, in all event files as TensorBoard's loader reads them."""
    found: Counter[int] = Counter()
    for path in list_files(folder):
        for event in EventFileLoader(str(path)).Load():
            found.update(event.step for value in event.summary.value if value.tag == tag)
    return found


def check(folder: Path, steps: int) -> None:
    """Checks that TensorBoard's readers find each step once.

    Raises:
        AssertionError: they do not.
    """
    found = count_points(folder, TAG)
    assert found == Counter(range(1, steps + 1)), {
        step: found[step] for step in {*found, *range(1, steps + 1)} if found[step] != 1
    }
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    points = accumulator.Scalars(TAG)
    assert [point.step for point in points] == list(range(1, steps + 1))


def _measure_records(path: Path) -> list[int]:
    """Bytes of each record."""
    data, sizes = path.read_bytes(), []
    start = 0
    while start + 8 <= len(data):
        size = 16 + int.from_bytes(data[start : start + 8], "little")
        if start + size > len(data):
            break
        sizes.append(size)
        start += size
    return sizes


def measure(folder: Path) -> int:
    """Bytes of the event files of a run."""
    return sum(path.stat().st_size for path in list_files(folder))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Waits for something.

    Raises:
        AssertionError: it was not so in time.
    """
    ends = time.monotonic() + CATCH_UP_S
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)


def _wait_for_progress(trainer: Trainer, folder: Path) -> None:
    taken, recorded = trainer.acknowledged, measure(folder)
    wait_until(lambda: trainer.acknowledged > taken + 5)
    wait_until(lambda: measure(folder) > recorded)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(30)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tally = crash_watch(arguments.kills, arguments.seed, Path(folder), verbose=True)
    print("\n".join(tally.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
