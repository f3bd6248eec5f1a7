"""What the server declares of each algorithm: formula, source, ranges and defaults."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, get_args, get_type_hints

from optserve_server import activations, complexity, initializers, losses, optimizers, schedules
from optserve_server.hyperparameters import REQUIRED, Declaration, declarations
from optserve_server.registry import Registry
from optserve_server.spec.session_spec import SessionSpec

FAMILIES: Mapping[str, Registry[Any]] = {
    "OptimizerSpec": optimizers.REGISTRY,
    "ScheduleSpec": schedules.REGISTRY,
    "LossSpec": losses.REGISTRY,
    "ActivationSpec": activations.REGISTRY,
    "InitializerSpec": initializers.REGISTRY,
    "LayerSpec": complexity.REGISTRY,
}
"""The algorithms behind each message that chooses one."""


def algorithm(family: str, field: str) -> type[Any] | None:
    """The class of one choice of a family; None when the server has none of that name."""
    registry = FAMILIES.get(family)
    return registry[field] if registry is not None and field in registry else None


def records() -> dict[str, type[Any]]:
    """The dataclasses of a session's specification, by name without "Spec"."""
    found: dict[str, type[Any]] = {}
    waiting: list[Any] = [SessionSpec]
    while waiting:
        kind = waiting.pop()
        if not isinstance(kind, type) or kind.__module__.partition(".")[0] != "optserve_server":
            waiting.extend(get_args(kind))
        elif not issubclass(kind, Enum) and kind.__name__.removesuffix("Spec") not in found:
            found[kind.__name__.removesuffix("Spec")] = kind
            if declarations_of(kind):
                waiting.extend(get_type_hints(kind).values())
    return found


def enum_names() -> dict[str, str]:
    """How the server spells each enum, by its name in lower case."""
    kinds = [registry[name] for registry in FAMILIES.values() for name in registry]
    hints = [hint for kind in [*kinds, *records().values()] for hint in get_type_hints(kind).values()]
    return {h.__name__.lower(): h.__name__ for h in hints if isinstance(h, type) and issubclass(h, Enum)}


def declarations_of(kind: type[Any] | None) -> dict[str, Declaration]:
    """The declared fields of a class, by name."""
    return declarations(kind) if kind is not None and hasattr(kind, "resolve") else {}


def source(kind: type[Any]) -> str:
    """What an algorithm is called and where it comes from, in one line."""
    head = (sys.modules[kind.__module__].__doc__ or "").partition("\n\n")[0]
    return " ".join(head.split()).rstrip(".")


def formula(kind: type[Any]) -> list[str]:
    """The lines of an algorithm's own description, without the server's remarks for its readers."""
    text = re.sub(r"\s*In the\s+frame:.*?(?=\n\n|\Z)", "", inspect.getdoc(kind) or "", flags=re.DOTALL)
    paragraphs = [_lay_out(part.splitlines()) for part in re.split(r"\n{2,}", text.strip())]
    return [line for paragraph in paragraphs for line in ["", *paragraph]][1:]


def _lay_out(lines: list[str]) -> list[str]:
    """The lines of a paragraph; of one in columns, indented, so that they stay lines in Markdown."""
    in_columns = len(lines) > 1 and any(re.search(r"\S {2,}\S", line) for line in lines)
    return [f"    {line}" if in_columns and line else line for line in lines]


def literal(value: object) -> str | None:
    """A default as Python source; None when it is no scalar, enum member or empty list."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, float):
        return re.sub(r"e([-+])0*(\d)", lambda m: f"e{m[1].strip('+')}{m[2]}", repr(value))
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool | int) or value == ():
        return repr(value)
    return None


def common_default(declaration: Declaration) -> object:
    """The default under every convention; None when there is none, or not one for all."""
    values = list(declaration.defaults.values())
    return None if REQUIRED in values or depends(declaration) else values[0]


def depends(declaration: Declaration) -> bool:
    """Whether the default depends on the convention."""
    first, *others = declaration.defaults.values()
    return any(other != first for other in others)


def default_text(declaration: Declaration) -> str:
    """The defaults in words, each with its conventions unless it is that of all; empty when there is none."""
    by_value: dict[str, list[str]] = {}
    for convention, value in declaration.defaults.items():
        shown = value.name if isinstance(value, Enum) else literal(value)
        if not shown or shown == "()":
            return ""
        by_value.setdefault(shown, []).append(convention.name)
    if len(by_value) == 1:
        return f"Default: {next(iter(by_value))}."
    return "Default: " + ", ".join(f"{v} ({', '.join(names)})" for v, names in by_value.items()) + "."
