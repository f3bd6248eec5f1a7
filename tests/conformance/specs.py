"""From a case's spec to the service's dataclass, without protobuf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from optserve_server.hyper import Convention, Hyperparameters, field_types
from optserve_server.registry import Registry


def resolve(registry: Registry[Any], spec: Mapping[str, Any]) -> Any:
    """The algorithm that a spec asks for, resolved by its convention."""
    (name,) = spec.keys() - {"convention", "reduction"}
    cls = registry[name]
    given = {field: value_of(cls, field, value) for field, value in spec[name].items()}
    convention = spec.get("convention", "CONVENTION_KERAS")
    return cls.resolve(given, Convention[convention.removeprefix("CONVENTION_")])


def value_of(cls: type[Hyperparameters], field: str, value: Any) -> Any:
    """A JSON value as the field's own type."""
    kind = field_types(cls)[field]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value.removeprefix(prefix(kind))]
    return tuple(value) if isinstance(value, list) else value


def prefix(kind: type[Enum]) -> str:
    """What protobuf puts before the members of an enum: MomentumForm's MOMENTUM_FORM_."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper() + "_"
