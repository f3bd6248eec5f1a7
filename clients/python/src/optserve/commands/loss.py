"""``optserve loss``: losses and their gradients."""

from __future__ import annotations

import argparse

from optserve.commands.array_files import read_array
from optserve.commands.command_parser import Subparsers
from optserve.commands.connection import open_client
from optserve.commands.evaluate import ARRAY, add_family_commands, read_one
from optserve.commands.output import print_record
from optserve.specs.enums import LossReduction
from optserve.specs.losses import Loss

KEYS = ("value", "per_example", "gradient")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary = "compute a loss and its gradient"
    parser = add_family_commands(commands, Loss, "losses", summary, run=run, keys=KEYS)
    parser.add_argument("--prediction", required=True, metavar="ARRAY", help=ARRAY)
    parser.add_argument("--target", required=True, metavar="ARRAY", help="the same, or class indices")
    parser.add_argument("--sample-weight", metavar="ARRAY", help="a factor for each example")


def run(options: argparse.Namespace) -> None:
    """Prints the loss, reduced and of each example, and the gradient with respect to the prediction."""
    loss, prediction = read_one(Loss, options), read_array(options.prediction, "f")
    target = read_array(options.target, "i" if "sparse" in loss.FIELD else "f")
    weight = None if options.sample_weight is None else read_array(options.sample_weight, "f")
    with open_client(options) as client:
        result = client.loss(loss, prediction, target, sample_weight=weight, per_example=True)
    value = None if loss.reduction is LossReduction.NONE else result.value
    print_record(options, dict(zip(KEYS, (value, result.per_example, result.gradient), strict=True)))
