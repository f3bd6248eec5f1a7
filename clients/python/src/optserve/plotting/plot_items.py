"""Items to draw, parsed from words: names, each followed by its fields."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from optserve.plotting.spec_parser import WrongItem, make_spec, parse_expression
from optserve.spec import Choice

C = TypeVar("C", bound=Choice)


@dataclass(frozen=True)
class Item(Generic[C]):
    """One thing to draw.

    Attributes:
        label: as it was typed.
        spec: its specification.
    """

    label: str
    spec: C


def parse_items(family: type[C], words: Sequence[str]) -> list[Item[C]]:
    """Reads ``name field=value ... name field=value ...``.

    Raises:
        WrongItem: a name, a field or a value is wrong.
    """
    groups: list[list[str]] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name.isidentifier():
            groups.append([word])
        elif not groups:
            raise WrongItem(f"{word} comes before the name of what it belongs to")
        else:
            groups[-1].append(word)
    return [_parse_item(family, name, fields) for name, *fields in groups]


def _parse_item(family: type[C], name: str, words: Sequence[str]) -> Item[C]:
    fields: dict[str, ast.expr] = {}
    for word in words:
        field, _, value = word.partition("=")
        if field in fields:
            raise WrongItem(f"{name}.{field} is given twice")
        fields[field] = parse_expression(value)
    label = f"{name}({', '.join(words)})" if words else name
    return Item(label, make_spec(family, name, fields))
