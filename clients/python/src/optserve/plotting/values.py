"""Values of specifications' fields, read from text by the field's declared type.

Numbers, booleans, enums' members by name, lists, and specifications within specifications:
``0.1``, ``true``, ``LINEAR``, ``[100, 200]``, ``cosine(initial_learning_rate=1, decay_steps=9)``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, TypeVar, cast

from optserve.spec import Choice
from optserve.specs.base import list_required

C = TypeVar("C", bound=Choice)
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
LONGEST_VALUE = 10_000
"""Characters, so that Python's parser cannot be led too deep."""


class WrongItem(ValueError):
    """An item or field that cannot be parsed; the message is for the user."""


def make(family: type[C], name: str, fields: Mapping[str, ast.expr]) -> C:
    """A member of a family, such as a schedule, by its name in the contract.

    Args:
        family: `Schedule`, `Optimizer` or another family of specifications.
        name: the field of the contract's oneof, as ``cosine_restarts``.
        fields: the values of its fields as they were typed; those left out stay unset.

    Raises:
        WrongItem: the name, a field or a value is wrong, or a required field is missing.
    """
    cls = family.CHOICES.get(name)
    if cls is None:
        raise WrongItem(unknown(f"{family.__name__.lower()} called", name, family.CHOICES))
    declared = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    wrong = next((field for field in fields if field not in declared), None)
    if wrong is not None:
        raise WrongItem(unknown(f"field of {name} called", wrong, declared))
    missing = [field for field in list_required(cls) if field not in fields]
    if missing:
        raise WrongItem(f"{name} needs {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    read = {field: _value(node, hints[field], f"{name}.{field}") for field, node in fields.items()}
    try:
        return cast(C, cls(**read))
    except ValueError as error:  # a number that its wire type cannot hold
        raise WrongItem(f"{name}: {error}") from error


def parse(text: str) -> ast.expr:
    """The expression that a value's text is; nothing of it is ever evaluated.

    Raises:
        WrongItem: it is none.
    """
    if len(text) > LONGEST_VALUE:
        raise WrongItem(f"a value has more than {LONGEST_VALUE} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WrongItem(f"cannot read {text!r}") from error


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Says that there is no such name, and which there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"there is no {what} {name!r}{hint} Known: {', '.join(names)}"


def _value(node: ast.expr, hint: Any, where: str) -> object:
    """Reads ``node`` as the type that a field is annotated with."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is Sequence:
        (inner,) = typing.get_args(hint)
        nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
        return tuple(_value(n, inner, f"{where}[{i}]") for i, n in enumerate(nodes))
    if isinstance(hint, type) and issubclass(hint, Choice):
        return _parse_choice(node, hint, where)
    return _scalar(_word(node, where), hint, where)


def _parse_choice(node: ast.expr, family: type[Choice], where: str) -> Choice:
    """Reads ``name`` or ``name(field=value, ...)``."""
    if isinstance(node, ast.Name):
        return make(family, node.id, {})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise WrongItem(f"{where} takes a {family.__name__.lower()} as name(field=value, ...)")
    return make(family, node.func.id, {keyword.arg or "**": keyword.value for keyword in node.keywords})


def _word(node: ast.expr, where: str) -> str:
    """The text of a number or a name, with its sign."""
    bare = node.operand if isinstance(node, ast.UnaryOp) else node
    if not isinstance(bare, ast.Constant | ast.Name):
        raise WrongItem(f"{where} takes one number or name")
    return ast.unparse(node)


def _scalar(text: str, hint: Any, where: str) -> object:
    if hint is bool:
        if text.lower() not in BOOLEANS:
            raise WrongItem(f"{where} takes true or false, not {text}")
        return BOOLEANS[text.lower()]
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        if text.upper() not in hint.__members__:
            raise WrongItem(f"{where}: " + unknown(f"{hint.__name__} called", text, hint.__members__))
        return hint[text.upper()]
    if hint not in (int, float):
        raise WrongItem(f"{where} cannot be given on the command line")
    try:
        return hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise WrongItem(f"{where} takes {kind}, not {text}") from None
