"""Capabilities of the server, from the registries and the declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, get_args, get_origin

from optserve.v1 import capabilities_service_pb2 as pb
from optserve.v1.convention_pb2 import Convention as WireConvention
from optserve_server.hyperparameters import (
    REQUIRED,
    Chosen,
    Convention,
    Declaration,
    NamedNumbers,
    declarations,
    field_types,
)
from optserve_server.sessions.store import Limits
from optserve_server.wire.fields.enums import enum_number
from optserve_server.wire.specifications.specs import FAMILIES

WORDS: Mapping[Any, str] = {
    float: "double",
    int: "int64",
    bool: "bool",
    str: "string",
    NamedNumbers: "numbers by name",
}
"""What a hyperparameter is made of."""


def algorithms_to() -> Iterator[pb.Algorithm]:
    """Every algorithm of every family."""
    for family in FAMILIES.values():
        for name in family:
            yield _encode_algorithm(family.family, name, family[name])


def limits_to(limits: Limits) -> pb.Limits:
    """A server's limits, which have the same names on the wire."""
    names = [field.name for field in pb.Limits.DESCRIPTOR.fields]
    return pb.Limits(**{name: getattr(limits, name) for name in names})


def _encode_algorithm(family: str, name: str, kind: type[Any]) -> pb.Algorithm:
    types = field_types(kind)
    return pb.Algorithm(
        family=family,
        name=name,
        hyperparameters=[
            pb.Hyperparameter(
                name=field,
                range=_range_text(types[field], declaration),
                defaults=list(_encode_defaults(declaration)),
            )
            for field, declaration in declarations(kind).items()
        ],
    )


def _encode_defaults(declaration: Declaration) -> Iterator[pb.ConventionDefault]:
    for convention in Convention:
        value = declaration.defaults[convention]
        if value is not REQUIRED:
            number = WireConvention.ValueType(enum_number(convention, WireConvention.DESCRIPTOR))
            yield pb.ConventionDefault(convention=number, value=_value_text(value))


def _value_text(value: object) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple):
        return "[" + ",".join(map(_value_text, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_type(kind: Any) -> str:
    """What a list or an algorithm within another is made of."""
    if get_origin(kind) is Chosen:
        return "specification"
    inner = get_args(kind)[:1]
    return "list of specifications" if inner and get_origin(inner[0]) is Chosen else "list of numbers"


def _range_text(kind: Any, declaration: Declaration) -> str:
    """``double in [0, 1)``; enums name what is allowed."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return declaration.range_text() or "one of " + ", ".join(member.name for member in kind)
    words = WORDS.get(kind) or _describe_type(kind)
    return f"{words} {declaration.range_text()}".rstrip()
