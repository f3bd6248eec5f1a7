"""From a case's spec to the service's dataclass, without protobuf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, get_args, get_origin

from optserve_server.hyperparameters import Chosen, Convention, Hyperparameters, NamedNumbers, field_types
from optserve_server.registry import Registry


def resolve(registry: Registry[Any], spec: Mapping[str, Any], inherited: str = "CONVENTION_KERAS") -> Any:
    """The algorithm that a spec asks for, resolved by its convention."""
    (name,) = spec.keys() - {"convention", "reduction"}
    cls = registry[name]
    convention = spec.get("convention", inherited)
    given = {field: value_of(cls, field, value) for field, value in spec[name].items()}
    given |= {
        field: inner(registry, value, convention) for field, value in given.items() if holds_specs(cls, field)
    }
    return cls.resolve(given, Convention[convention.removeprefix("CONVENTION_")])


def value_of(cls: type[Hyperparameters], field: str, value: Any) -> Any:
    """A JSON value as the field's own type."""
    kind = field_types(cls)[field]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value.removeprefix(prefix(kind))]
    if kind == NamedNumbers:
        return tuple(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


def holds_specs(cls: type[Hyperparameters], field: str) -> bool:
    """Whether a field holds algorithms of the same family, one or several."""
    kind = field_types(cls)[field]
    return Chosen in (get_origin(kind), *map(get_origin, get_args(kind)))


def inner(registry: Registry[Any], value: Any, convention: str) -> Any:
    """The algorithms within another, which hand their convention down."""
    if isinstance(value, tuple):
        return tuple(inner(registry, item, convention) for item in value)
    return Chosen(resolve(registry, value, convention))


def prefix(kind: type[Enum]) -> str:
    """What protobuf puts before the members of an enum: MomentumForm's MOMENTUM_FORM_."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper() + "_"
