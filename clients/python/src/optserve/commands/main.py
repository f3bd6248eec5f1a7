"""The command line: ``optserve plot schedule|activation|optimizer``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from optserve.commands import plot
from optserve.errors import InvalidArgument, OptserveError
from optserve.plotting.spec_parser import WrongItem

OK, FAILED, MISUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 if it failed, 2 if it was asked for what there is not.

    Args:
        arguments: the command line without the command itself; this process' own when None.
    """
    parser = argparse.ArgumentParser(prog="optserve", description="A client of optserve servers.")
    plot.add_to(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    options = _parse_arguments(parser, arguments)
    try:
        options.run(options)
    except (WrongItem, InvalidArgument) as error:
        return _print_error(error, MISUSED)
    except (OptserveError, RuntimeError, OSError) as error:
        return _print_error(error, FAILED)
    except KeyboardInterrupt:
        return 130
    return OK


def _parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments; words that follow an option belong to those before it."""
    options, rest = parser.parse_known_args(arguments)
    flags = [word for word in rest if word.startswith("-")]
    if flags:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    options.words += rest
    return options


def _print_error(error: Exception, status: int) -> int:
    print(f"optserve: {error}", file=sys.stderr)
    return status
