"""``make soak``: 64 clients over a network that fails, beside hostile peers, and the figures."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.soak.campaign import HOSTILE_SHARE, Findings, soak
from chaos.soak.trainee import PATIENCE
from optserve_server.rpc.authentication import tokens
from tests.support.server import running_server

SETTINGS: dict[str, Any] = {
    "allow_unauthenticated": "yes",
    "journal_bytes": "64MiB",
    "log_level": "error",
    "stream_idle_seconds": 20,
}
"""Settings of the server."""

MOST_SLOWDOWN, ALWAYS_FAST = 3.0, 0.05
"""By which factor hostile peers may slow the p99 of an honest client's steps, and what is fast anyway (s)."""

MOST_GROWTH = 96 << 20
"""Bytes by which a server's memory may grow from the third fifth of a soak to the last. Hostile peers make it
hold more or less of them."""


def main() -> int:
    """Prints what was found; returns 1 if that may not be."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--hostile", type=float, default=HOSTILE_SHARE, help="share of hostile peers")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    stated = parser.parse_args()
    print(f"seed {stated.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as root,
        tokens_file(root) as tokens,
        running_server("numpy", data_dir=f"{root}/data", tokens_file=tokens, **SETTINGS) as server,
    ):
        found = soak(server, stated.clients, stated.seconds, stated.seed, stated.hostile)
        stopped = server.stop()
    print("\n".join(lines(found)))
    print(f"exit status of the server {stopped}")
    for text in found.wrong[:20]:
        print(f"WRONG: {text}")
    failed = bool(found.wrong) or not flat(found) or not is_fast(found)
    return int(failed or found.stall > PATIENCE or stopped != 0)


@contextlib.contextmanager
def tokens_file(folder: str) -> Iterator[Path]:
    """A tokens file, so that calls with a wrong token are rejected; those without one are accepted."""
    path = Path(folder, "tokens.toml")
    tokens.add_token(path, "unused", "unused")
    yield path


def is_fast(found: Findings) -> bool:
    """Whether hostile peers left an honest client's steps fast."""
    calm, attacked = found.p99
    return attacked < max(MOST_SLOWDOWN * calm, ALWAYS_FAST)


def flat(found: Findings) -> bool:
    """Whether the server's memory stayed what it was when it was warm."""
    return found.memory[1] - found.memory[0] < MOST_GROWTH


def lines(found: Findings) -> Iterator[str]:
    """What was found, for people."""
    yield f"{found.seconds:9.1f}  seconds"
    yield f"{found.steps:9}  steps answered, each applied once; {found.journaled} of them journaled"
    yield f"{found.over_data:9}  of them over data connections, {found.steps - found.over_data} over gRPC"
    yield f"{found.steps / found.seconds:9.0f}  steps/s"
    for kind, count in sorted(found.attacks.items()):
        yield f"{count:9}  attacks: {kind}"
    calm, attacked = (1000 * seconds for seconds in found.p99)
    yield f"{calm:9.1f}  ms, p99 of an honest client's steps without attacks"
    yield f"{attacked:9.1f}  ms during them{'' if is_fast(found) else ': TOO MUCH'}"
    for kind, count in sorted(found.faults.items()):
        yield f"{count:9}  faults: {kind}"
    yield f"{found.longest_fault:9.1f}  seconds, the longest fault"
    yield f"{found.stall:9.1f}  seconds, the longest that a client waited for an answer"
    yield f"{found.repeats:9}  calls given up and made again"
    yield f"{found.replayed:9}  answers that the server had kept and gave again"
    warm, end = (size / 2**20 for size in found.memory)
    yield f"{warm:9.0f}  MiB of the server in the middle"
    yield f"{end:9.0f}  MiB at the end{'' if flat(found) else ': TOO MUCH'}"
    yield f"{found.compared:9}  times parameters were compared bit for bit"
    yield f"{len(found.wrong):9}  wrong"


if __name__ == "__main__":
    sys.exit(main())
