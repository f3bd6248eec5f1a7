"""Confirmation of commands that destroy something."""

from __future__ import annotations

import argparse
import sys

from optserve.formatting import escape_controls
from optserve.plotting.spec_parser import WrongItem


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--yes``."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def ask(options: argparse.Namespace, what: str) -> None:
    """Returns if the user agrees, or said so with ``--yes``.

    Raises:
        WrongItem: the user does not, or standard input is no terminal.
    """
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise WrongItem(f"add --yes to {what}: there is no terminal to ask at")
    print(f"{escape_controls(what[0].upper() + what[1:])}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise WrongItem("nothing was changed")
