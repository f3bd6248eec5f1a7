"""Specifications read from text: numbers, words, lists, and specifications within specifications.

``0.1``, ``true``, ``LINEAR``, ``[100, 200]``, ``cosine(initial_learning_rate=1, decay_steps=9)``,
``parameter_group(name=head, tensors=[w, b])``.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor

from optserve.spec import Choice, Spec
from optserve.specs.base import list_required, normalize_name, wire_fields, with_article

S = TypeVar("S", bound=Spec)
BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
LONGEST_VALUE = 10_000
"""Characters, so that Python's parser cannot be led too deep."""


class WrongItem(ValueError):
    """An item or field that cannot be parsed; the message is for the user."""


def make_spec(family: type[S], name: str, fields: Mapping[str, ast.expr]) -> S:
    """A member of a family, such as a schedule, by its name in the contract.

    Args:
        family: `Schedule`, `Optimizer` or another family of specifications, or a class that is none.
        name: the field of the contract's oneof, as ``cosine_restarts``, or the name of the class.
        fields: the values of its fields as they were typed; those left out stay unset.

    Raises:
        WrongItem: the name, a field or a value is wrong, or a required field is missing.
    """
    try:
        cls = _find_class(family, name)
        read = parse_fields(cls, name, fields)
        missing = [field for field in list_required(cls) if field not in fields]
        if missing and fields.keys() <= wire_fields(cls).keys():
            raise WrongItem(f"{name} needs {', '.join(missing)}")
        return cast(S, cls(**read))
    except (TypeError, ValueError) as error:
        raise WrongItem(str(error)) from error


def parse_spec(family: type[S], text: str) -> S:
    """A member of a family from ``name`` or ``name(field=value, ...)``.

    Raises:
        WrongItem: it is neither, or a name, a field or a value is wrong.
    """
    match parse_expression(text):
        case ast.Name(id=name):
            return make_spec(family, name, {})
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            return make_spec(family, name, {word.arg or "**": word.value for word in keywords})
    raise WrongItem(f"{text!r} is not the name of {with_article(family.__name__)}, or name(field=value, ...)")


def parse_fields(cls: type[Spec], name: str, fields: Mapping[str, ast.expr]) -> dict[str, object]:
    """What the fields of a specification stand for.

    Args:
        cls: of the specification.
        name: of the specification, for errors.
        fields: the values as they were typed.

    Raises:
        WrongItem: a value is wrong.
    """
    known = wire_fields(cls)
    return {field: _parse_value(node, f"{name}.{field}", known.get(field)) for field, node in fields.items()}


def _find_class(family: type[Spec], name: str) -> type[Spec]:
    """The class that a name stands for.

    Raises:
        TypeError, ValueError: it stands for none.
    """
    if issubclass(family, Choice):
        return family.find(name) or type(family.of(name, family.__name__.lower()))
    if normalize_name(name) != normalize_name(family.__name__):
        raise WrongItem(f"{name} is not {family.__name__}; write {family.__name__}(field=value, ...)")
    return family


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
            family = Spec.BY_MESSAGE[field.message_type.full_name]
            return make_spec(family, name, {word.arg or "**": word.value for word in node.keywords})
    with contextlib.suppress(ValueError):
        return ast.literal_eval(node)
    raise WrongItem(f"{where} takes a number, a word, or name(field=value, ...)")


def _parse_word(word: str) -> object:
    """A truth value, a number such as inf, or the name of a member or a specification."""
    with contextlib.suppress(ValueError):
        return float(word)
    return BOOLEANS.get(word.lower(), word)
