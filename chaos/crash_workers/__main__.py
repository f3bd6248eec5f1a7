"""``make crash-workers``: 64 workers whose server, and a quarter of them, are killed; and the figures."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import optserve
from chaos.crash_workers.campaign import Campaign

MODES: dict[str, optserve.Coordination] = {
    "sync": optserve.CoordinationSync(),
    "async": optserve.CoordinationAsync(),
}


def main() -> int:
    """Prints what was found; returns 1 if a death stopped the training for too long."""
    parser = argparse.ArgumentParser(prog="python -m chaos.crash_workers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of all modes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    stated = parser.parse_args()
    print(f"seed {stated.seed}", flush=True)
    timely = True
    for mode in stated.mode:
        with tempfile.TemporaryDirectory() as root:
            campaign = Campaign(
                Path(root),
                MODES[mode],
                processes=stated.processes,
                workers=stated.workers,
                lease=stated.lease,
                seed=stated.seed,
            )
            found = campaign.run(stated.seconds / len(stated.mode))
        print("\n".join([mode, *found.lines()]), flush=True)
        timely = timely and found.is_timely
    return int(not timely)


if __name__ == "__main__":
    sys.exit(main())
