"""Trains the digits with four worker processes in the modes of coordination, and draws the losses.

One worker takes three times as long for a batch, and one is killed on the way. Batches take a while,
as those of a larger model do, so that the pictures of different machines are alike.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.server import running_server
from workers.modes import MODES
from workers.picture import draw
from workers.run import Pace, Run, train


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make example-workers", description=__doc__)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), metavar="MODE")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="of each training")
    parser.add_argument("--batch-seconds", type=float, default=0.01, metavar="S", help="that a batch takes")
    parser.add_argument("--slowdown", type=float, default=3.0, metavar="FACTOR", help="of the slow worker")
    parser.add_argument("--picture", type=Path, default=Path("build/workers/loss.svg"), metavar="FILE")
    return parser.parse_args()


def table(runs: Sequence[Run]) -> str:
    """What came of each training, a line for each."""
    lines = [f"{'mode':<14}{'steps/s':>9}{'contributions/s':>17}{'loss':>10}{'test accuracy':>15}"]
    for run in runs:
        speeds = f"{run.steps_per_second:>9.0f}{run.contributions_per_second:>17.0f}"
        lines.append(f"{run.mode:<14}{speeds}{run.losses[-1]:>10.4f}{run.accuracy:>15.1%}")
    return "\n".join(lines)


def main() -> int:
    """The exit code."""
    options = arguments()
    pace = Pace(options.seconds, options.batch_seconds, options.slowdown)
    # Ends the example as Ctrl-C does, through every `finally`, so that server and workers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running_server(options.picture.parent / "server.log") as address:
        runs = []
        for mode in options.mode:
            print(f"{mode} ...", flush=True)
            runs.append(train(address, mode, MODES[mode], pace))
    draw(runs, options.picture)
    print(f"\n{table(runs)}\n\npicture: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
