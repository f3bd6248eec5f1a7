"""The command line ``optserve``: its parser, its exit statuses and its errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from optserve import errors
from optserve.commands.command_parser import Parser, add_connection_options
from optserve.formatting import escape_controls
from optserve.plotting.spec_parser import WrongItem

COMMANDS = (
    *("session", "watch", "step", "pull", "push", "snapshot", "worker", "schedule", "loss", "activation"),
    *("optimizer", "plot", "server", "context", "completion"),
)
"""The commands, each in a module of its name."""

CONFLICTS = errors.AlreadyExists, errors.Aborted, errors.FailedPrecondition
OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
STATUSES: dict[int, tuple[str, tuple[type[errors.OptserveError], ...]]] = {
    OK: ("success", ()),
    FAILED: ("another error", ()),
    MISUSED: ("wrong arguments; nothing was changed", (errors.InvalidArgument,)),
    3: ("no such session or snapshot", (errors.NotFound,)),
    4: ("no valid token, or no permission", (errors.Unauthenticated, errors.PermissionDenied)),
    5: ("no answer from the server", (errors.Unavailable, errors.DeadlineExceeded)),
    6: ("not in the session's present state, or its id is used", CONFLICTS),
    INTERRUPTED: ("interrupted", ()),
}
"""The meaning of each exit status, and the errors of a server that have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status, one of `STATUSES`.

    Args:
        arguments: the command line without the command itself; this process' own when None.
    """
    options = _parse_arguments(make_parser(), arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except errors.OptserveError as error:
        found = (status for status, (_, kinds) in STATUSES.items() if isinstance(error, kinds))
        return _print_error(error, next(found, FAILED))
    except (WrongItem, TypeError, ValueError) as error:
        return _print_error(error, MISUSED)
    except BrokenPipeError:  # the reader of standard output has ended, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (RuntimeError, OSError, ImportError) as error:
        return _print_error(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def make_parser() -> Parser:
    """The parser of all commands."""
    statuses = "; ".join(f"{status} {meaning}" for status, (meaning, _) in STATUSES.items())
    about, notes = "A client of optserve servers.", f"Exit statuses: {statuses}."
    parser = Parser(prog="optserve", description=about, epilog=notes)
    parser.add_argument("--version", action="version", version=f"optserve {version('optserve')}")
    add_connection_options(parser, None)
    parser.set_defaults(root=parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        import_module(f"optserve.commands.{command}").add_to(commands)
    return parser


def _parse_arguments(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments; words that follow an option belong to those before it."""
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "words")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.words += rest
    return options


def _print_error(error: Exception, status: int) -> int:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    print(f"optserve: {escape_controls('; '.join(lines))}", file=sys.stderr)
    return status
