"""``python -m tests.performance``: every figure, as build/bench.json and as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.performance import kernels, results, round_trip


def main() -> None:
    """Runs the groups."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    sizes = (10_000, 1_000_000) if arguments.quick else (10_000, 1_000_000, 25_000_000)
    rounds = 3 if arguments.quick else 7
    found: list[results.Result] = []
    for group in (kernels, round_trip):
        for result in group.run(sizes, rounds):
            found.append(result)
            print(f"{result.group}: {result.name} at {result.n}", file=sys.stderr)
    results.write(found, arguments.out)
    print(results.table(found))


if __name__ == "__main__":
    main()
