"""Parsers of the commands: options that all have, errors of one line, what a command prints."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

Keys: TypeAlias = Sequence[str]
Run: TypeAlias = Callable[[argparse.Namespace], None]
FILE_COMPLETION = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""How shells complete the name of a file, in the form of shtab."""

LIST_SESSIONS = "optserve completion sessions 2>/dev/null"
SESSION_COMPLETION = {
    "bash": "_optserve_compgen_sessions",
    "zsh": f"($({LIST_SESSIONS}))",
    "tcsh": "`optserve completion sessions`",
}
"""How shells complete the name of a session, in the form of shtab: they ask the server."""

FORMS = {"object": "an object", "array": "an array of objects", "lines": "an object in each line"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line.

    Attributes:
        json_keys: keys of the JSON that the command prints; none if it prints no JSON.
        json_form: of that JSON, one of `FORMS`.
        notes: what its help says at the end.
    """

    json_keys: Keys = ()
    json_form = notes = ""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"optserve: {message} (see {self.prog} --help)\n")


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Parsers of the commands below one of them."""


def add_group(commands: Subparsers, name: str, summary: str) -> Subparsers:
    """Adds a command that consists of others, and returns where to add these."""
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_command(
    group: Subparsers, name: str, summary: str, run: Run, *, keys: Keys, form: str = "object", notes: str = ""
) -> Parser:
    """Adds a command.

    Args:
        group: the commands of the parser above it.
        name: the word that selects it.
        summary: what it does, as a phrase.
        run: called with the options.
        keys: of the JSON that it prints.
        form: of that JSON, one of `FORMS`.
        notes: what its help says at the end.
    """
    epilog = f"{notes} JSON: {FORMS[form]} with {', '.join(keys)}."
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = group.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.json_keys, parser.json_form, parser.notes = keys, form, notes
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_options(parser, argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def add_connection_options(parser: argparse.ArgumentParser, default: object) -> None:
    """Adds the options that name a server; they may be before the command's name or after it."""
    group = parser.add_argument_group("server")
    for flag, metavar, text in (
        ("--context", "NAME", "named settings (OPTSERVE_CONTEXT)"),
        ("--server", "HOST:PORT", "address (OPTSERVE_SERVER; default: localhost:50051)"),
        ("--token", "TOKEN", "bearer token (OPTSERVE_TOKEN)"),
        ("--ca", "FILE", "trusted authorities in PEM, for TLS (OPTSERVE_CA)"),
        ("--certificate", "FILE", "the client's own certificate in PEM (OPTSERVE_CERTIFICATE)"),
        ("--key", "FILE", "its private key in PEM (OPTSERVE_KEY)"),
    ):
        complete_files(group.add_argument(flag, default=default, metavar=metavar, help=text))
    authorities = "TLS, with gRPC's own authorities if there is no --ca"
    group.add_argument("--tls", action="store_true", default=default, help=authorities)
    seconds = "of each call; default: 60"
    group.add_argument("--timeout", type=parse_seconds, default=default, metavar="SECONDS", help=seconds)


def add_session_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that names a session."""
    complete_sessions(parser.add_argument("session", metavar="SESSION", help="id, or sessions/{id}"))


def add_expected_step(parser: argparse.ArgumentParser) -> None:
    """Adds ``--expected-step``."""
    meaning = "fail unless the session has this step"
    parser.add_argument("--expected-step", type=parse_step, metavar="N", help=meaning)


def add_file_argument(
    parser: argparse.ArgumentParser, *names: str, ends: Sequence[str] = (), help: str, **options: Any
) -> None:
    """Adds an argument that is a path, which ends in one of ``ends`` if there are any."""
    allowed = f"; ends in {', '.join(ends)}" if ends else ""
    options.update(type=functools.partial(_parse_path, ends), metavar="FILE", help=f"{help}{allowed}")
    complete_files(parser.add_argument(*names, **options))


def _parse_path(ends: Sequence[str], text: str) -> Path:
    path = Path(text)
    if ends and path.suffix not in ends:
        raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(ends)}")
    return path


def complete_files(action: argparse.Action) -> None:
    """Lets shells complete an argument with names of files, if it is one."""
    if action.metavar == "FILE":
        action.complete = FILE_COMPLETION  # type: ignore[attr-defined]


def complete_sessions(action: argparse.Action) -> None:
    """Lets shells complete an argument with the server's sessions."""
    action.complete = SESSION_COMPLETION  # type: ignore[attr-defined]


def list_keys(record: Any, without: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of a dataclass' fields, which are the keys of its JSON."""
    return tuple(field.name for field in dataclasses.fields(record) if field.name not in without)


def parse_count(text: str) -> int:
    """Reads a whole number from 1 to 1,000,000."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1000000")
    return int(text)


def parse_step(text: str) -> int:
    """Reads a step, a whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0, not {text}")
    return int(text)


def parse_seconds(text: str) -> float:
    """Reads a duration."""
    seconds = parse_number(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"a number greater than 0, not {text}")
    return seconds


def parse_number(text: str) -> float:
    """Reads a finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"a number, not {text}")
    return number
