"""``optserve server``: the server itself."""

from __future__ import annotations

import argparse

from optserve.capabilities import Capabilities
from optserve.commands.command_parser import Subparsers, add_command, add_group, list_keys
from optserve.commands.connection import find_settings, open_client
from optserve.commands.output import print_record
from optserve.errors import Unavailable
from optserve.formatting import to_record

KEYS = ("server", "serving", *list_keys(Capabilities, without=("algorithms",)))


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = add_group(commands, "server", "the server itself")
    add_command(group, "status", "whether a server accepts calls, and what it can do", run_status, keys=KEYS)


def run_status(options: argparse.Namespace) -> None:
    """Asks the server's health and its capabilities.

    Raises:
        Unavailable: it is running, and does not accept calls.
    """
    address = find_settings(options).server
    with open_client(options) as client:
        if not client.health():
            raise Unavailable(f"the server at {address} does not accept calls")
        capabilities = to_record(client.capabilities(), without=("algorithms",))
    print_record(options, {"server": address, "serving": True, **capabilities})
