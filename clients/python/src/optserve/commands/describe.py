"""``describe`` of schedules, losses, activations and optimizers."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import Any

from optserve.capabilities import Algorithm
from optserve.commands.command_parser import Subparsers, add_command
from optserve.commands.connection import open_client
from optserve.commands.output import print_records
from optserve.plotting.spec_parser import WrongItem
from optserve.spec import Choice
from optserve.specs.enums import Convention

KEYS = ("name", "summary", "formula", "hyperparameters")
NOTES = "Each hyperparameter has name, range, and defaults by convention, which are empty if it is required."


def add_describe_command(group: Subparsers, family: type[Choice], families: str) -> None:
    """Adds the command for one family, whose name in the server's capabilities is ``families``."""
    summary = f"formulas, ranges and defaults of {families}"
    parser = add_command(group, "describe", summary, run, keys=KEYS, form="array", notes=NOTES)
    parser.add_argument("words", nargs="*", metavar="NAME", help="default: all, for people in a line each")
    parser.set_defaults(family=family, families=families)


def run(options: argparse.Namespace) -> None:
    """Prints what the client's documentation and the server's capabilities say.

    Raises:
        WrongItem: the family has no such member, or the server does not have it.
    """
    with open_client(options) as client:
        served = client.capabilities().algorithms.get(options.families, {})
    known = [name for name in options.family.CHOICES if name in served]
    classes = [options.family.find(name) for name in options.words or known]
    for name, cls in zip(options.words, classes, strict=False):
        if cls is None or cls.FIELD not in known:
            raise WrongItem(f"{name!r} is not one of the server's {options.families}: {', '.join(known)}")
    records = [_describe(cls, served[cls.FIELD]) for cls in classes]
    if options.json or not options.words:
        return print_records(options, records, KEYS[:2])
    for record in records:
        print(f"{record['name']}: {record['summary']}\n\n{record['formula']}".rstrip(), end="\n\n")
        rows = [{**vars(h), "default": _format_defaults(h.defaults)} for h in record["hyperparameters"]]
        print_records(options, rows, ("name", "range", "default"))
    return None


def _describe(cls: type[Choice], algorithm: Algorithm) -> dict[str, Any]:
    """The summary and the formula of a class' documentation, and hyperparameters of the server."""
    text = (inspect.getdoc(cls) or "").partition("\nAttributes:")[0]
    summary, _, formula = text.strip().partition("\n\n")
    hyperparameters = list(algorithm.hyperparameters.values())
    return dict(zip(KEYS, (algorithm.name, summary, formula, hyperparameters), strict=True))


def _format_defaults(defaults: Mapping[Convention, str]) -> str:
    """A default that all conventions share, or each with the conventions that have it."""
    names: dict[str, list[str]] = {}
    for convention, value in defaults.items():
        names.setdefault(value, []).append(convention.name)
    if len(names) <= 1:
        return next(iter(names), "required")
    return ", ".join(f"{value} ({', '.join(conventions)})" for value, conventions in names.items())
