"""Specifications read from text: numbers, words, lists, and specifications within specifications.

``0.1``, ``true``, ``LINEAR``, ``[100, 200]``, ``cosine(initial_learning_rate=1, decay_steps=9)``.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor

from optserve.spec import Choice, Spec
from optserve.specs.base import list_required, wire_fields

C = TypeVar("C", bound=Choice)
BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
LONGEST_VALUE = 10_000
"""Characters, so that Python's parser cannot be led too deep."""


class WrongItem(ValueError):
    """An item or field that cannot be parsed; the message is for the user."""


def make_spec(family: type[C], name: str, fields: Mapping[str, ast.expr]) -> C:
    """A member of a family, such as a schedule, by its name in the contract.

    Args:
        family: `Schedule`, `Optimizer` or another family of specifications.
        name: the field of the contract's oneof, as ``cosine_restarts``.
        fields: the values of its fields as they were typed; those left out stay unset.

    Raises:
        WrongItem: the name, a field or a value is wrong, or a required field is missing.
    """
    try:
        cls = family.find(name) or type(family.of(name, family.__name__.lower()))
        known = wire_fields(cls)
        read = {
            field: _parse_value(node, f"{name}.{field}", known.get(field)) for field, node in fields.items()
        }
        missing = [field for field in list_required(cls) if field not in fields]
        if missing and fields.keys() <= known.keys():
            raise WrongItem(f"{name} needs {', '.join(missing)}")
        return cast(C, cls(**read))
    except (TypeError, ValueError) as error:
        raise WrongItem(str(error)) from error


def parse_expression(text: str) -> ast.expr:
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


def _parse_value(node: ast.expr, where: str, field: FieldDescriptor | None) -> object:
    """What a node stands for; the specification converts it to the type of the field."""
    match node:
        case ast.List(elts=nodes) | ast.Tuple(elts=nodes):
            return [_parse_value(one, f"{where}[{i}]", field) for i, one in enumerate(nodes)]
        case ast.Name(id=word):
            return _parse_word(word)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=word)):
            return _parse_word(f"-{word}")
        case ast.Call(func=ast.Name(id=name), args=[]) if field is not None and field.message_type:
            family = cast("type[Choice]", Spec.BY_MESSAGE[field.message_type.full_name])
            return make_spec(family, name, {word.arg or "**": word.value for word in node.keywords})
    with contextlib.suppress(ValueError):
        return ast.literal_eval(node)
    raise WrongItem(f"{where} takes a number, a word, or name(field=value, ...)")


def _parse_word(word: str) -> object:
    """A truth value, a number such as inf, or the name of a member or a specification."""
    with contextlib.suppress(ValueError):
        return float(word)
    return BOOLEANS.get(word.lower(), word)
