"""``optserve activation``: activations and their derivatives."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from optserve.commands.array_files import read_array
from optserve.commands.command_parser import Subparsers
from optserve.commands.connection import open_client
from optserve.commands.evaluate import ARRAY, add_family_commands, read_one
from optserve.commands.output import print_record
from optserve.specs.activations import Activation

KEYS = ("output", "gradient")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary = "compute an activation, and the gradient of the sum of its outputs"
    parser = add_family_commands(commands, Activation, "activations", summary, run=run, keys=KEYS)
    parser.add_argument("--input", required=True, metavar="ARRAY", help=ARRAY)
    parser.add_argument("--slope", metavar="ARRAY", help="of prelu")


def run(options: argparse.Namespace) -> None:
    """Prints the output and the gradient with respect to the input."""
    activation, x = read_one(Activation, options), read_array(options.input, "f")
    slope: dict[str, Any] = {} if options.slope is None else {"slope": read_array(options.slope, "f")}
    with open_client(options) as client:
        output = client.activation(activation, x, **slope)
        gradient: Any = client.activation_gradient(activation, x, np.ones_like(output), **slope)
    print_record(options, {"output": output, "gradient": gradient[0] if slope else gradient})
