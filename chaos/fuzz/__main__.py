"""``make fuzz``: 300,000 hostile messages, a table of what was answered, and parsers fuzzed with coverage."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

from chaos.fuzz.campaign import run
from chaos.fuzz.coverage import PARSERS, fuzz_parser
from chaos.fuzz.findings import MAX_SHED_SHARE, Findings
from tests.support.server import running_server

MOST_GROWTH = 48 << 20
"""Bytes by which a server's memory may differ between a fifth of a campaign and its end."""

LIMITS: dict[str, Any] = {
    "max_message_bytes": "4MiB",
    "max_sessions": 48,
    "max_memory_bytes": "256MiB",
    "stream_idle_seconds": 5,
}
"""Settings of a server that hostile callers reach."""


def main() -> int:
    """Prints what was found; returns 1 if that may not be."""
    parser = argparse.ArgumentParser(prog="python -m chaos.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each parser; 0 for no parsers")
    parser.add_argument("--seed", type=int, default=1)
    stated = parser.parse_args()
    began = time.monotonic()
    with running_server("numpy", **LIMITS) as server:
        found = asyncio.run(run(server, stated.messages, stated.seed))
        stopped = server.stop()
    print(table(found))
    seconds = time.monotonic() - began
    print(f"{found.messages} messages in {seconds:.0f} s, {found.steps} honest steps among them")
    print(", ".join(f"{count} times {kind}" for kind, count in sorted(found.attacks.items())))
    print(f"{found.over_data} of those over a data connection, the slowest in {found.slowest:.3f} s")
    warm, end = (size / 2**20 for size in found.memory)
    print(f"memory {warm:.0f} MiB after a fifth, {end:.0f} MiB at the end; exit status {stopped}")
    print("descriptors {} before, {} at the end".format(*found.descriptors))
    for text in found.wrong[:20]:
        print(f"WRONG: {text}")
    shed = found.shed > found.messages * MAX_SHED_SHARE
    print(f"{found.shed} calls cancelled by gRPC itself{': TOO MANY' if shed else ''}")
    flat = found.memory[1] - found.memory[0] < MOST_GROWTH
    print(f"{len(found.wrong)} wrong answers", flush=True)
    rejected = [fuzz_parser(name, stated.runs, stated.seed) for name in PARSERS] if stated.runs else []
    for name, text in zip(PARSERS, rejected, strict=False):
        print(f"parser {name:12} {stated.runs:7} inputs with coverage feedback {text or 'without a finding'}")
    return int(any(rejected) or bool(found.wrong) or shed or not flat or stopped != 0)


def table(found: Findings) -> str:
    """Answers by kind and code."""
    lines = [f"{kind:18} {code:20} {count:7}" for (kind, code), count in sorted(found.codes.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
