"""Values as people read them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import IntEnum
from typing import Any

import numpy as np


def to_record(value: Any, without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in without}


def format_field(name: str, value: object) -> str:
    """A field as people read it: bytes with their unit, a session by its id."""
    if name.endswith(("bytes", "byte_count")) and isinstance(value, int):
        return format_bytes(value)
    return format_value(value).removeprefix("sessions/" if name in ("name", "session") else "")


def format_value(value: object) -> str:
    """A value as people read it; characters that control a terminal are escaped."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
        case IntEnum():
            return value.name
        case os.PathLike():
            return escape_controls(os.fspath(value))
        case np.dtype():
            return value.name
        case np.ndarray() | np.generic():
            return format_value(value.tolist())
        case Mapping():
            shown = {key: v for key, v in value.items() if v not in (None, (), {})}
            return ", ".join(
                f"{format_value(key) or 'default'}={_format_item(v)}" for key, v in shown.items()
            )
        case tuple() | list() | frozenset():
            return ", ".join(map(_format_item, sorted(value) if isinstance(value, frozenset) else value))
    if not dataclasses.is_dataclass(value):
        return escape_controls(str(value))
    fields = format_value(to_record(value))
    if not hasattr(type(value), "MESSAGE"):
        return fields
    name = getattr(value, "FIELD", "") or type(value).__name__.lower()  # a specification
    return f"{name}({fields})"


def _format_item(value: object) -> str:
    """A value within another one, in the notation of `optserve.plotting.spec_parser`."""
    text = format_value(value)
    return f"[{text}]" if isinstance(value, tuple | list | Mapping) else text


def escape_controls(text: str) -> str:
    """Escapes what is not printable, such as the sequences that control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_bytes(count: float) -> str:
    """A number of bytes with a binary unit."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    index = min(int(math.log2(max(count, 1)) // 10), len(units) - 1)
    return f"{count / 1024**index:.4g} {units[index]}"
