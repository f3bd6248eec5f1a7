"""``optserve pull``: parameters to a file."""

from __future__ import annotations

import argparse

from optserve.commands.array_files import SUFFIXES, write_arrays
from optserve.commands.command_parser import Subparsers, add_command, add_file_argument, add_session_argument
from optserve.commands.connection import open_client
from optserve.commands.output import print_record
from optserve.specs.enums import ParameterPoint

KEYS = ("session", "step", "point", "tensors", "file")
TYPES = ("float16", "bfloat16", "float32", "float64")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    parser = add_command(commands, "pull", "write a session's parameters to a file", run, keys=KEYS)
    add_session_argument(parser)
    parser.add_argument("words", nargs="*", metavar="TENSOR", help="names; default: all")
    add_file_argument(parser, "-o", "--output", ends=SUFFIXES, required=True, help="where to write")
    points = [name.lower() for name in ParameterPoint.__members__]
    parser.add_argument("--point", choices=points, help="which value; default: the parameters themselves")
    parser.add_argument("--dtype", choices=TYPES, help="element type; default: each tensor's own")


def run(options: argparse.Namespace) -> None:
    """Writes the file and prints what it contains."""
    point = None if options.point is None else ParameterPoint[options.point.upper()]
    with open_client(options) as client:
        session = client.session(options.session)
        values = session.pull(options.words or None, point=point, wire_dtype=options.dtype)
    write_arrays(options.output, values)
    record = session.name, values.step, values.point, list(values), options.output
    print_record(options, dict(zip(KEYS, record, strict=True)))
