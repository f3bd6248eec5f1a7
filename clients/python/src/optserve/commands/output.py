"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

import numpy as np
from google.protobuf import json_format

from optserve._codec.layout import Layout
from optserve.extras import import_extra
from optserve.formatting import escape_controls, format_field, to_record
from optserve.spec import Spec, encode_spec

NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
PIPE_WIDTH = 400
"""Characters in a line of output that goes to no terminal, so that no cell is broken."""


def print_records(options: argparse.Namespace, records: Iterable[Any], columns: Sequence[str]) -> None:
    """Prints a table of some fields, or an array of all that the records contain.

    Args:
        options: of the command.
        records: mappings or dataclasses.
        columns: names of fields.
    """
    if options.json:
        print_json(list(records))
    else:
        make_console().print(make_table(records, columns))


def print_record(options: argparse.Namespace, record: Mapping[str, object]) -> None:
    """Prints a line for each field, or an object."""
    if options.json:
        print_json(record)
    else:
        width = max(map(len, record), default=0)
        for name, stated in record.items():
            value = list(stated.values()) if isinstance(stated, Layout) else stated
            print(f"{escape_controls(name):<{width}}  {format_field(name, value)}".rstrip())


def print_json(value: object, indent: int | None = 2) -> None:
    """Prints a value as JSON; in one line if ``indent`` is None."""
    print(json.dumps(to_json(value), indent=indent, allow_nan=False), flush=indent is None)


def to_json(value: Any) -> Any:
    """Converts a value to what JSON has; specifications to the JSON form of their messages.

    Numbers that are not finite become the strings of that form: NaN, Infinity and -Infinity.
    """
    match value:
        case IntEnum():
            return value.name
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else NON_FINITE[str(value)]
        case datetime():
            return value.isoformat()
        case Spec():
            return json_format.MessageToDict(encode_spec(value), preserving_proto_field_name=True)
        case np.dtype():
            return value.name
        case np.ndarray() | np.generic():
            return to_json(value.tolist())
        case Layout():
            return to_json(list(value.values()))
        case Mapping():
            return {key.name if isinstance(key, IntEnum) else key: to_json(v) for key, v in value.items()}
        case os.PathLike():
            return os.fspath(value)
        case list() | tuple() | frozenset():
            return [to_json(item) for item in (sorted(value) if isinstance(value, frozenset) else value)]
    return to_json(to_record(value))


def make_console() -> Any:
    """A console that writes to standard output.

    Raises:
        ImportError: rich is missing.
    """
    console = import_extra("rich.console", "cli").Console
    return console() if sys.stdout.isatty() else console(width=PIPE_WIDTH)


def make_table(records: Iterable[Any], columns: Sequence[str], title: str | None = None) -> Any:
    """A table without lines, numbers on the right.

    Raises:
        ImportError: rich is missing.
    """
    text = import_extra("rich.text", "cli").Text
    table = import_extra("rich.table", "cli").Table(box=None, pad_edge=False, title=title)
    mappings = [record if isinstance(record, Mapping) else to_record(record) for record in records]
    for name in columns:
        is_number = mappings and all(type(record[name]) in (int, float) for record in mappings)
        heading = text(name.replace("_", " ").upper())
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for record in mappings:
        table.add_row(*(text(format_field(name, record[name])) for name in columns))
    return table
