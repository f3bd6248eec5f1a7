"""Runs the demo: starts a server, trains on it, shows what came of it, stops the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import optserve
from demo import curves, digits, iris
from demo.interrupts import Interrupted, catch_interrupts
from demo.server import running_server

WANTED_ACCURACY = 0.96
"""What the digits classifier has to exceed on its test set."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--iris-epochs", type=int, default=iris.EPOCHS, metavar="N")
    parser.add_argument("--digits-epochs", type=int, default=digits.EPOCHS, metavar="N")
    parser.add_argument("--wanted-accuracy", type=float, default=WANTED_ACCURACY, metavar="SHARE")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="FOLDER")
    return parser.parse_args()


def run(address: str, options: argparse.Namespace) -> bool:
    """Trains both models and reports; whether the digits classifier is good enough."""
    with optserve.connect(address) as client:
        server = client.capabilities()
        print(f"server at {address}: {server.backend} on {server.device}\n", flush=True)
        report_iris(iris.train_all(client, options.iris_epochs), options.out / "curves.svg")
        return report_digits(digits.train(client, options.digits_epochs), options.wanted_accuracy)


def report_iris(runs: list[curves.Curves], picture: Path) -> None:
    """Draws the curves and prints the table."""
    curves.draw(runs, picture)
    print(f"\n{curves.table(runs)}\n\ncurves: {picture}\n", flush=True)


def report_digits(outcome: digits.Outcome, wanted: float) -> bool:
    """Prints the accuracy; whether it is more than was wanted."""
    good = outcome.accuracy > wanted
    print(
        f"\ndigits: {outcome.accuracy:.1%} on the test set after {outcome.steps} steps in "
        f"{outcome.seconds:.1f} s, {'more' if good else 'NOT more'} than the {wanted:.0%} that were wanted"
    )
    return good


def main() -> int:
    """The exit code: 0, 1 if the accuracy is too low, 130 or 143 if it was interrupted."""
    options = arguments()
    catch_interrupts()
    try:
        with running_server(options.out / "server.log") as address:
            return 0 if run(address, options) else 1
    except Interrupted as interrupted:
        print("\ninterrupted", file=sys.stderr)
        return interrupted.status


if __name__ == "__main__":
    sys.exit(main())
