"""``optserve schedule``: learning rates by step."""

from __future__ import annotations

import argparse

from optserve.commands.command_parser import Subparsers, parse_count, parse_step
from optserve.commands.connection import open_client
from optserve.commands.evaluate import add_family_commands, read_one
from optserve.commands.output import print_records
from optserve.specs.schedules import Schedule

KEYS = ("step", "learning_rate")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary, options = "compute the learning rates of steps", {"run": run, "keys": KEYS, "form": "array"}
    parser = add_family_commands(commands, Schedule, "schedules", summary, **options)
    parser.add_argument("--start", type=parse_step, default=0, metavar="STEP", help="first; default: 0")
    parser.add_argument("--steps", type=parse_count, default=10, metavar="N", help="how many; default: 10")
    parser.add_argument("--stride", type=parse_count, default=1, metavar="N", help="between two; default: 1")


def run(options: argparse.Namespace) -> None:
    """Prints the rates."""
    schedule = read_one(Schedule, options)
    steps = range(options.start, options.start + options.steps * options.stride, options.stride)
    with open_client(options) as client:
        rates = client.evaluate_schedule(schedule, steps).tolist()
    pairs = zip(steps, rates, strict=True)
    print_records(options, [dict(zip(KEYS, pair, strict=True)) for pair in pairs], KEYS)
