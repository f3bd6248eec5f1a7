"""The commands of ``optserve`` as a page, made from their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from optserve.commands.command_parser import FORMS, Parser, add_connection_options
from optserve.commands.main import STATUSES, make_parser

INTRODUCTION = """# Command line

Generated from the parsers of `optserve`, which comes with the Python client; its extra `cli` brings tables,
safetensors files and completion. [Use a server from a terminal](../how_to/command_line.md) introduces
the commands.

Every command takes `-h`, the options of the server below and, except `completion`, `--json`. JSON has the
keys that are listed with each command. Specifications have the JSON form that protobuf defines for their
messages, with the contract's names of fields. Numbers that are not finite are the strings `NaN`, `Infinity`
and `-Infinity`. Errors are one line on standard error.
"""


def command_line_page() -> str:
    """Exit statuses, common options, and every command."""
    parser = make_parser()
    lines = [INTRODUCTION, "## Exit statuses", "", "| status | meaning |", "|---|---|"]
    lines += [f"| {status} | {meaning} |" for status, (meaning, _) in STATUSES.items()]
    server = Parser(add_help=False)
    add_connection_options(server, None)
    lines += ["", "## Options of the server", "", *_list_arguments(server._actions), ""]
    common = {action.dest for action in server._actions} | {"help", "json"}
    for words, command in list_commands(parser).items():
        own = [action for action in command._actions if action.dest not in common]
        usage = " ".join(["optserve", words, *(_usage(a) for a in own if not a.option_strings)])
        lines += [f"## {words}", "", f"    {usage}", "", command.description or "", ""]
        if own:
            lines += [*_list_arguments(own), ""]
        if command.json_keys:
            keys = ", ".join(f"`{key}`" for key in command.json_keys)
            lines += [f"JSON: {FORMS[command.json_form]} with {keys}. {command.notes}".rstrip(), ""]
    return "\n".join(lines)


def list_commands(parser: Parser, words: tuple[str, ...] = ()) -> dict[str, Parser]:
    """Parsers of the commands that do something, by their words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = [list_commands(child, (*words, name)) for name, child in action.choices.items()]
            return {name: found for commands in below for name, found in commands.items()}
    return {" ".join(words): parser}


def _list_arguments(actions: list[argparse.Action]) -> Iterator[str]:
    yield from ("| argument | meaning |", "|---|---|")
    for action in actions:
        value = _name_value(action)
        name = ", ".join(action.option_strings) + (f" {value}" if action.option_strings and value else "")
        meaning = (action.help or "").replace("|", "\\|")
        required = "; required" if action.option_strings and action.required else ""
        yield f"| `{name or value}` | {meaning}{required} |"


def _usage(action: argparse.Action) -> str:
    forms = {"?": "[{}]", "*": "[{} ...]", "+": "{} [{} ...]"}
    value = _name_value(action)
    return forms.get(str(action.nargs), "{}").format(value, value)


def _name_value(action: argparse.Action) -> str:
    """What stands for an argument's value; empty for a flag."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return ", ".join(map(str, action.choices))
    metavar = action.metavar or action.dest.upper()
    return metavar if isinstance(metavar, str) else " ".join(metavar)
