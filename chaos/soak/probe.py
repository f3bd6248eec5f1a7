"""An honest client in a process of its own, whose network has no faults, and which measures its steps.

``python -m chaos.soak.probe ADDRESS SESSION`` steps until its standard input ends. It prints a line after
the first steps, and at the end when each step began (``time.monotonic``) and how many seconds it took.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

import optserve
from chaos import child_process
from chaos.actors import VALUES

PAUSE_S = 0.01
"""Between two steps."""

FIRST_STEPS = 20
"""Steps after which it says that it is warm."""


class Probe:
    """Steps of the measuring client.

    Attributes:
        steps: when each began and how many seconds it took, known when it has ended.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def p99(self, spans: Sequence[tuple[float, float]]) -> float:
        """The 99th percentile of the steps that began within spans of time, in seconds; infinity for none.

        Args:
            spans: beginning and end of each, by the monotonic clock.
        """
        taken = [seconds for at, seconds in self.steps if any(begin <= at < end for begin, end in spans)]
        return float(np.quantile(taken, 0.99)) if taken else float("inf")


@contextlib.contextmanager
def running_probe(address: str, session: str) -> Iterator[Probe]:
    """Steps until the block ends; no other client may step the session."""
    probe = Probe()
    process = child_process.start("chaos.soak.probe", address, session)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has taken its first steps
        yield probe
    finally:
        told = child_process.end(process)
    if process.returncode == 0:
        probe.steps = [(at, seconds) for at, seconds in json.loads(told)]


def main() -> None:
    """Steps until the standard input ends."""
    address, name = sys.argv[1:]
    over, steps = threading.Event(), list[tuple[float, float]]()

    def await_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=await_end, daemon=True).start()
    with optserve.connect(address, shared_memory=False) as client:
        session = client.session(name)
        while not over.wait(PAUSE_S):
            began = time.monotonic()
            assert session.step(VALUES).step == len(steps) + 1
            steps.append((began, time.monotonic() - began))
            if len(steps) == FIRST_STEPS:
                print("warm", flush=True)
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
