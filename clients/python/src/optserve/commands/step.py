"""``optserve step``: one step, with gradients from a file."""

from __future__ import annotations

import argparse
from typing import Any

from optserve._engine.step_result import StepResult
from optserve.commands import command_parser as parsers
from optserve.commands.array_files import SUFFIXES, read_arrays, write_arrays
from optserve.commands.connection import open_client
from optserve.commands.output import print_record
from optserve.formatting import to_record

KEYS = parsers.list_keys(StepResult, without=("parameters",))


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    parser = parsers.add_command(commands, "step", "take one optimizer step", run, keys=KEYS)
    parsers.add_session_argument(parser)
    parsers.add_file_argument(parser, "gradients", ends=SUFFIXES, help="gradients by tensor name")
    parsers.add_file_argument(parser, "-o", "--output", ends=SUFFIXES, help="for the new parameters")
    parsers.add_expected_step(parser)
    parser.add_argument("--loss-scale", type=parsers.parse_number, metavar="S", help="divides the gradients")
    parser.add_argument("--worker", metavar="NAME", help="name that numbers the step; default: a new one")
    parser.add_argument("--validate-only", action="store_true", help="check and measure, apply nothing")
    meaning = "value of a hyperparameter in this step only"
    override: dict[str, Any] = {"type": _parse_override, "metavar": "NAME=NUMBER", "help": meaning}
    parser.add_argument("--override", action="append", default=[], **override)


def run(options: argparse.Namespace) -> None:
    """Takes the step and prints its result."""
    gradients, overrides = read_arrays(options.gradients), dict(options.override)
    with open_client(options) as client:
        session = client.session(options.session, worker=options.worker)
        given = {name: getattr(options, name) for name in ("expected_step", "loss_scale", "validate_only")}
        pull = options.output is not None
        result = session.step(gradients, pull=pull, overrides=overrides or None, **given)
    print_record(options, to_record(result, without=("parameters",)))
    if options.output is not None:
        write_arrays(options.output, result.parameters)


def _parse_override(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, parsers.parse_number(value)
