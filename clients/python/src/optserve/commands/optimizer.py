"""``optserve optimizer``: optimizers, and steps of theirs from given parameters."""

from __future__ import annotations

import argparse

from optserve.commands.array_files import read_array
from optserve.commands.command_parser import Subparsers, parse_count
from optserve.commands.connection import open_client
from optserve.commands.evaluate import ARRAY, add_family_commands, read_one
from optserve.commands.output import print_records
from optserve.specs.enums import DurabilityMode
from optserve.specs.optimizers import Optimizer
from optserve.specs.session_spec import Durability

KEYS = ("step", "learning_rate", "parameters")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary = "take steps with one gradient, in a session that is deleted afterwards"
    options = {"run": run, "keys": KEYS, "form": "array"}
    parser = add_family_commands(commands, Optimizer, "optimizers", summary, **options)
    parser.add_argument("--parameters", required=True, metavar="ARRAY", help=ARRAY)
    parser.add_argument("--gradient", required=True, metavar="ARRAY", help="of the same shape")
    parser.add_argument("--steps", type=parse_count, default=1, metavar="N", help="default: 1")


def run(options: argparse.Namespace) -> None:
    """Prints the parameters after each step."""
    optimizer, ephemeral = read_one(Optimizer, options), Durability(mode=DurabilityMode.EPHEMERAL)
    start, gradient = (read_array(text, "f") for text in (options.parameters, options.gradient))
    with open_client(options) as client:
        session = client.create_session({"p": start}, optimizer, durability=ephemeral)
        try:
            results = [session.step({"p": gradient}, pull=True) for _ in range(options.steps)]
        finally:
            session.delete()
    records = [(result.step, result.learning_rate, result.parameters["p"]) for result in results]
    print_records(options, [dict(zip(KEYS, record, strict=True)) for record in records], KEYS)
