"""``evaluate`` of schedules, losses, activations and optimizers: what the four have in common."""

from __future__ import annotations

import argparse
from typing import Any, TypeVar

from optserve.commands.command_parser import Parser, Subparsers, add_command, add_group
from optserve.commands.describe import add_describe_command
from optserve.plotting.plot_items import parse_items
from optserve.plotting.spec_parser import WrongItem
from optserve.spec import Choice

C = TypeVar("C", bound=Choice)
ARRAY = "numbers as in [[1, 2], [3, 4]], or an .npy file"


def add_family_commands(
    commands: Subparsers, family: type[Choice], families: str, summary: str, **options: Any
) -> Parser:
    """Adds ``describe`` and ``evaluate`` for a family, and returns the parser of ``evaluate``.

    Args:
        commands: of the parser above it.
        family: its specifications.
        families: its name in the server's capabilities.
        summary: of ``evaluate``.
        options: of `add_command`, for ``evaluate``.
    """
    name = family.__name__.lower()
    group = add_group(commands, name, f"{families}: formulas and values")
    add_describe_command(group, family, families)
    parser = add_command(group, "evaluate", summary, **options)
    parser.add_argument("words", nargs="+", metavar="WORD", help="a name, and its fields as FIELD=VALUE")
    return parser


def read_one(family: type[C], options: argparse.Namespace) -> C:
    """The one specification that the words of a command state.

    Raises:
        WrongItem: a word is wrong, or they state several.
    """
    items = parse_items(family, options.words)
    if len(items) != 1:
        raise WrongItem(f"one {family.__name__.lower()} at a time, not {len(items)}")
    return items[0].spec
