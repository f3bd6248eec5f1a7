"""``optserve worker``: members of a session."""

from __future__ import annotations

import argparse

from optserve.commands.command_parser import (
    Subparsers,
    add_command,
    add_group,
    add_session_argument,
    list_keys,
)
from optserve.commands.connection import open_client
from optserve.commands.output import print_records
from optserve.workers import Worker

KEYS = list_keys(Worker)
COLUMNS = tuple(key for key in KEYS if key not in ("lease", "contributions_per_second"))


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = add_group(commands, "worker", "workers of a session")
    summary = "list a session's members by rank, then former members"
    add_session_argument(add_command(group, "ls", summary, run_ls, keys=KEYS, form="array"))


def run_ls(options: argparse.Namespace) -> None:
    """Lists the workers."""
    with open_client(options) as client:
        print_records(options, client.session(options.session).workers(), COLUMNS)
