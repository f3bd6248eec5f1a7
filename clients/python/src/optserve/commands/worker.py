"""``optserve worker``: members of a session."""

from __future__ import annotations

import argparse

from optserve.commands import command_parser as parsers
from optserve.commands.connection import open_client
from optserve.commands.output import print_records
from optserve.workers import Worker

KEYS = parsers.list_keys(Worker)
COLUMNS = tuple(key for key in KEYS if key not in ("lease", "contributions_per_second"))


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = parsers.add_group(commands, "worker", "workers of a session")
    summary = "list a session's members by rank, then former members"
    parsers.add_session_argument(parsers.add_command(group, "ls", summary, run_ls, keys=KEYS, form="array"))


def run_ls(options: argparse.Namespace) -> None:
    """Lists the workers."""
    with open_client(options) as client:
        print_records(options, client.session(options.session).workers(), COLUMNS)
