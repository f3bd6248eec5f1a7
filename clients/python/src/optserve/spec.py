"""Specifications as messages of the contract, and messages as specifications."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from optserve.specs import enums
from optserve.specs.base import Choice, Spec

__all__ = ["Choice", "Spec", "decode_spec", "encode_spec", "member_or_none"]

E = TypeVar("E", bound=IntEnum)


def encode_spec(spec: Spec) -> Any:
    """Encodes ``spec``; fields that are None stay unset.

    Raises:
        ValueError: ``spec`` is a bare family.
    """
    message = type(spec).MESSAGE()
    inner = message
    if isinstance(spec, Choice):
        if not spec.FIELD:
            raise ValueError(f"{type(spec).__name__} is a family; use one of {', '.join(spec.CHOICES)}")
        inner = getattr(message, spec.FIELD)
        inner.SetInParent()
    for name, value in _set_fields(spec).items():
        target = inner if name in inner.DESCRIPTOR.fields_by_name else message
        _set_field(target, name, value)
    return message


def _set_fields(spec: Spec) -> dict[str, object]:
    fields = dataclasses.fields(cast(Any, spec))
    values = {field.name: getattr(spec, field.name) for field in fields}
    return {name: value for name, value in values.items() if value is not None}


def _set_field(message: Message, name: str, value: object) -> None:
    if isinstance(value, Spec):
        getattr(message, name).CopyFrom(encode_spec(value))
    elif isinstance(value, Mapping):
        getattr(message, name).update(value)
    elif isinstance(value, tuple):
        getattr(message, name).extend([encode_spec(v) if isinstance(v, Spec) else v for v in value])
    else:
        setattr(message, name, value)


def decode_spec(message: Message) -> Spec:
    """Decodes ``message``; a choice that this client does not know becomes its family."""
    cls = Spec.BY_MESSAGE[message.DESCRIPTOR.full_name]
    inner = message
    if issubclass(cls, Choice):
        field = message.WhichOneof(cls.ONEOF)
        if field is not None:
            cls, inner = cls.CHOICES[field], getattr(message, field)
    values = {}
    for name in (field.name for field in dataclasses.fields(cast(Any, cls))):
        source = inner if name in inner.DESCRIPTOR.fields_by_name else message
        values[name] = _get_field(source, name)
    return cls(**values)


def _get_field(message: Message, name: str) -> object:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(decode_spec(v) if isinstance(v, Message) else v for v in value)
    if field.enum_type is not None:
        return member_or_none(enums.find_enum(field.enum_type.name), value)
    if field.has_presence and not message.HasField(name):
        return None
    return decode_spec(value) if isinstance(value, Message) else value


def member_or_none(enum: type[E], number: int) -> E | None:
    """The member with that number; None for an unset one and one that this client does not know."""
    return next((member for member in enum if member == number), None)
