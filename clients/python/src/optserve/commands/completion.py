"""``optserve completion``: scripts that complete commands in a shell."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re

from optserve.commands.command_parser import LIST_SESSIONS, SESSION_COMPLETION, Subparsers
from optserve.commands.connection import open_client
from optserve.extras import import_extra

SESSION_ID = re.compile(r"[A-Za-z0-9._~-]+")
"""Ids that are offered: bash would run others, as $(command), when it expands the words."""

SESSIONS_TIMEOUT_S = 1.0
"""Seconds that a server may take to name its sessions for a completion."""

MAX_SESSIONS = 1000
"""Sessions that a completion offers."""

BASH_PREAMBLE = f"""
{SESSION_COMPLETION["bash"]}() {{
  compgen -W "$({LIST_SESSIONS})" -- "$1"
}}
"""
"""The function that completes sessions in bash."""


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary, usage = "print a script that completes commands", 'In bash: eval "$(optserve completion bash)".'
    sessions = "The script asks the server for sessions, by `optserve completion sessions`."
    parser = commands.add_parser("completion", help=summary, description=f"{usage} {sessions}")
    choices = ("bash", "zsh", "tcsh", "sessions")
    parser.add_argument("shell", choices=choices, help="of the script; or the ids that it completes with")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints the script, or the ids of sessions.

    Raises:
        ImportError: shtab is missing.
    """
    if options.shell == "sessions":
        list_sessions(options)
        return
    shtab = import_extra("shtab", "cli")
    print(shtab.complete(options.root, options.shell, preamble={"bash": BASH_PREAMBLE}))


def list_sessions(options: argparse.Namespace) -> None:
    """Prints the ids of the server's sessions, one in a line; nothing if it does not answer at once."""
    options.timeout = SESSIONS_TIMEOUT_S
    with contextlib.suppress(Exception), open_client(options) as client:  # a completion has no errors
        for session in itertools.islice(client.sessions(page_size=MAX_SESSIONS), MAX_SESSIONS):
            if SESSION_ID.fullmatch(name := session.name.removeprefix("sessions/")):
                print(name)
