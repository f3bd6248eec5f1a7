"""``optserve push``: parameters from a file."""

from __future__ import annotations

import argparse

from optserve.commands import command_parser as parsers
from optserve.commands.array_files import SUFFIXES, read_arrays
from optserve.commands.connection import open_client
from optserve.commands.output import print_record


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary, keys = "replace parameters of a session", ("session", "step", "tensors")
    parser = parsers.add_command(commands, "push", summary, run, keys=keys)
    parsers.add_session_argument(parser)
    parsers.add_file_argument(parser, "parameters", ends=SUFFIXES, help="values by tensor name")
    parsers.add_expected_step(parser)
    parser.add_argument("--reset-state", action="store_true", help="initialize their optimizer state")


def run(options: argparse.Namespace) -> None:
    """Pushes all arrays of the file, or none."""
    values = read_arrays(options.parameters)
    with open_client(options) as client:
        session = client.session(options.session)
        info = session.push(values, expected_step=options.expected_step, reset_state=options.reset_state)
    print_record(options, {"session": info.name, "step": info.step, "tensors": list(values)})
