"""``optserve context``: named settings of servers."""

from __future__ import annotations

import argparse

from optserve.commands import confirmation
from optserve.commands.command_parser import Subparsers, add_command, add_group
from optserve.commands.connection import find_stated_settings
from optserve.commands.context_file import ContextFile, ServerSettings
from optserve.commands.output import print_record, print_records
from optserve.plotting.spec_parser import WrongItem

KEYS = ("name", "current", "server", "has_token", "ca", "certificate", "key", "tls")


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = add_group(commands, "context", "named settings of servers")
    add_command(group, "ls", "list the contexts", run_ls, keys=KEYS, form="array")
    notes = (
        "A token in OPTSERVE_TOKEN, unlike one in an option, is not visible to other users of the machine."
    )
    add = add_command(group, "add", "store a context", run_add, keys=KEYS, notes=notes)
    use = add_command(group, "use", "make a context the current one", run_use, keys=KEYS)
    remove = add_command(group, "rm", "delete a context", run_rm, keys=("deleted",))
    confirmation.add_flag(remove)
    for parser in (add, use, remove):
        parser.add_argument("name", metavar="NAME", help="of the context")


def run_ls(options: argparse.Namespace) -> None:
    """Lists the contexts, without their tokens."""
    current, contexts = ContextFile().load()
    print_records(options, [_describe(name, value, current) for name, value in contexts.items()], KEYS)


def run_add(options: argparse.Namespace) -> None:
    """Stores the settings of options and environment; the first context becomes the current one.

    Raises:
        WrongItem: no server is stated, or there is a context of that name.
    """
    file, settings = ContextFile(), find_stated_settings(options).with_absolute_paths()
    current, contexts = file.load()
    if settings.server is None:
        raise WrongItem("a context needs --server HOST:PORT")
    if options.name in contexts:
        raise WrongItem(f"there is a context {options.name!r}; delete it first")
    file.save(current or options.name, {**contexts, options.name: settings})
    print_record(options, _describe(options.name, settings, current or options.name))


def run_use(options: argparse.Namespace) -> None:
    """Makes a context the current one."""
    file = ContextFile()
    settings = file.find(options.name)
    file.save(options.name, file.load()[1])
    print_record(options, _describe(options.name, settings, options.name))


def run_rm(options: argparse.Namespace) -> None:
    """Deletes a context."""
    file = ContextFile()
    file.find(options.name)
    confirmation.ask(options, f"delete the context {options.name}")
    current, contexts = file.load()
    del contexts[options.name]
    file.save(None if current == options.name else current, contexts)
    print_record(options, {"deleted": [options.name]})


def _describe(name: str, settings: ServerSettings, current: str | None) -> dict[str, object]:
    stated = {"name": name, "current": name == current, "has_token": settings.token is not None}
    return {key: stated[key] if key in stated else getattr(settings, key) for key in KEYS}
