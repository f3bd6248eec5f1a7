"""``optserve completion``: scripts that complete commands in a shell."""

from __future__ import annotations

import argparse

from optserve.commands.command_parser import Subparsers
from optserve.commands.extras import import_extra


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary, usage = "print a script that completes commands", 'In bash: eval "$(optserve completion bash)".'
    parser = commands.add_parser("completion", help=summary, description=usage)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="of the script")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints the script.

    Raises:
        RuntimeError: shtab is missing.
    """
    print(import_extra("shtab", "cli").complete(options.root, options.shell))
