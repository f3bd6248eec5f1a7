"""``make soak``: 64 clients for five minutes over a network that fails, and the figures."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator

from chaos.soak.campaign import Findings, soak
from chaos.soak.trainee import PATIENCE
from tests.support.server import running_server

MOST_GROWTH = 32 << 20
"""Bytes by which a server's memory may grow from the second fifth of a soak to the last."""


def main() -> int:
    """Prints what was found; returns 1 if that may not be."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    stated = parser.parse_args()
    print(f"seed {stated.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as root,
        running_server("numpy", data_dir=root, journal_bytes="64MiB", log_level="error") as server,
    ):
        found = soak(server, stated.clients, stated.seconds, stated.seed)
        stopped = server.stop()
    print("\n".join(lines(found)))
    print(f"exit status of the server {stopped}")
    for text in found.wrong[:20]:
        print(f"WRONG: {text}")
    return int(bool(found.wrong) or not flat(found) or found.stall > PATIENCE or stopped != 0)


def flat(found: Findings) -> bool:
    """Whether the server's memory stayed what it was when it was warm."""
    return found.memory[1] - found.memory[0] < MOST_GROWTH


def lines(found: Findings) -> Iterator[str]:
    """What was found, for people."""
    yield f"{found.seconds:9.1f}  seconds"
    yield f"{found.steps:9}  steps answered, each applied once; {found.journaled} of them journaled"
    yield f"{found.over_data:9}  of them over data connections, {found.steps - found.over_data} over gRPC"
    yield f"{found.steps / found.seconds:9.0f}  steps/s"
    for kind, count in sorted(found.faults.items()):
        yield f"{count:9}  faults: {kind}"
    yield f"{found.longest_fault:9.1f}  seconds, the longest fault"
    yield f"{found.stall:9.1f}  seconds, the longest that a client waited for an answer"
    yield f"{found.repeats:9}  calls given up and made again"
    yield f"{found.replayed:9}  answers that the server had kept and gave again"
    warm, end = (size / 2**20 for size in found.memory)
    yield f"{warm:9.0f}  MiB of the server after a fifth"
    yield f"{end:9.0f}  MiB at the end{'' if flat(found) else ': TOO MUCH'}"
    yield f"{found.compared:9}  times parameters were compared bit for bit"
    yield f"{len(found.wrong):9}  wrong"


if __name__ == "__main__":
    sys.exit(main())
