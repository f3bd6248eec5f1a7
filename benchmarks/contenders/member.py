"""A worker that computes for a while, contributes, and so on, until its session is deleted."""

from __future__ import annotations

import sys
import time

import optserve
from benchmarks.contenders.fleet import gradient_of
from benchmarks.contenders.worker import private_output, say


def main() -> None:
    """Trains."""
    size, address, name, rank, pause = sys.argv[1:]
    gradient = gradient_of(int(rank), int(size))
    answers = private_output()
    with optserve.connect(address) as client:
        member = client.session(name).join(f"worker-{rank}")
        say(answers, ready=True)
        try:
            while True:
                time.sleep(float(pause))
                member.step({"w": gradient})
        except optserve.errors.NotFound:
            pass


if __name__ == "__main__":
    main()
