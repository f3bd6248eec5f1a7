"""A session's specification on a command line: fields as words, or a whole one as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

from google.protobuf import json_format

from optserve.commands.command_parser import add_file_argument
from optserve.plotting.spec_parser import WrongItem, parse_expression, parse_fields
from optserve.spec import decode_spec
from optserve.specs.session_spec import SessionSpec
from optserve.v1 import session_pb2

GRAMMAR = (
    "FIELD=VALUE are fields of SessionSpec: 'optimizer=adam(learning_rate=0.01)',"
    " 'schedule=cosine(initial_learning_rate=0.1, decay_steps=900)', 'gradient=gradient(l2=0.001)'; none"
    " leaves a field unset."
)


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``FIELD=VALUE`` and ``--spec``."""
    parser.add_argument("words", nargs="*", metavar="FIELD=VALUE", help="of the specification")
    meaning = "a whole SessionSpec in protobuf's JSON form, of which FIELD=VALUE replaces fields; - for stdin"
    add_file_argument(parser, "--spec", help=meaning)


def read_spec(options: argparse.Namespace, current: SessionSpec | None = None) -> SessionSpec:
    """The specification that the arguments state.

    Args:
        options: with ``words`` and ``spec``.
        current: what fields that are not stated have, unless a whole specification is given.

    Raises:
        WrongItem: a field or a value is wrong, or there is no optimizer.
        OSError: the file cannot be read.
    """
    fields = _parse_words(options.words)
    base = current if options.spec is None else _read_json(options.spec)
    try:
        return SessionSpec(**fields) if base is None else dataclasses.replace(base, **fields)
    except (TypeError, ValueError) as error:
        if base is None and "optimizer" not in fields:
            raise WrongItem("a session needs optimizer=NAME(FIELD=VALUE, ...), or --spec FILE") from None
        raise WrongItem(str(error)) from None


def _parse_words(words: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals:
            raise WrongItem(f"{word!r} is not FIELD=VALUE")
        read = {} if value == "none" else parse_fields(SessionSpec, "spec", {field: parse_expression(value)})
        fields[field] = read.get(field)
    return fields


def _read_json(path: Path) -> SessionSpec:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        return cast(SessionSpec, decode_spec(json_format.Parse(text, session_pb2.SessionSpec())))
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise WrongItem(f"{path} is no SessionSpec in JSON: {error}") from None
