"""Specifications as Python values, and their way to messages and back.

The classes themselves are written from the contract (``optserve.optimizers`` and its
neighbours); this file is all they have in common. A field left at None stays unset on
the wire, so that the server fills it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, TypeVar, cast

from google.protobuf.message import Message

from optserve import enums

E = TypeVar("E", bound=IntEnum)


class Spec:
    """A value that stands for one message of the contract, field by field."""

    MESSAGE: ClassVar[type[Message]]
    BY_MESSAGE: ClassVar[dict[str, type[Spec]]] = {}

    def __init_subclass__(cls, message: type[Message] | None = None) -> None:
        super().__init_subclass__()
        if message is not None:
            cls.MESSAGE = message
            Spec.BY_MESSAGE[message.DESCRIPTOR.full_name] = cls


class Choice(Spec):
    """A value that stands for one field of a message's oneof, and the message around it.

    A family (``Optimizer``) names the message and its oneof, a member (``Adam``) its field.
    """

    ONEOF: ClassVar[str]
    FIELD: ClassVar[str] = ""
    CHOICES: ClassVar[dict[str, type[Choice]]]

    def __init_subclass__(
        cls, message: type[Message] | None = None, oneof: str | None = None, field: str | None = None
    ) -> None:
        super().__init_subclass__(message=message)
        if oneof is not None:
            cls.ONEOF, cls.CHOICES = oneof, {}
        if field is not None:
            cls.FIELD = field
            cls.CHOICES[field] = cls


def encode(spec: Spec) -> Any:
    """The message that ``spec`` stands for.

    Raises:
        TypeError: a field holds a value of the wrong type.
        ValueError: a field holds a number that its type cannot, or ``spec`` is a bare family.
    """
    message = type(spec).MESSAGE()
    inner = message
    if isinstance(spec, Choice):
        if not spec.FIELD:
            raise ValueError(f"{type(spec).__name__} is a family; use one of {sorted(spec.CHOICES)}")
        inner = getattr(message, spec.FIELD)
        inner.SetInParent()
    for name, value in _values(spec).items():
        target = inner if name in inner.DESCRIPTOR.fields_by_name else message
        _put(target, name, value)
    return message


def _values(spec: Spec) -> dict[str, object]:
    fields = dataclasses.fields(cast(Any, spec))
    values = {field.name: getattr(spec, field.name) for field in fields}
    return {name: value for name, value in values.items() if value is not None}


def _put(message: Message, name: str, value: object) -> None:
    if isinstance(value, Spec):
        getattr(message, name).CopyFrom(encode(value))
    elif isinstance(value, Mapping):
        getattr(message, name).update(value)
    elif isinstance(value, str) or not isinstance(value, Sequence):
        setattr(message, name, value)
    else:
        getattr(message, name).extend([encode(v) if isinstance(v, Spec) else v for v in value])


def decode(message: Message) -> Spec:
    """The value that stands for ``message``; of a choice unknown to this client, its family."""
    cls = Spec.BY_MESSAGE[message.DESCRIPTOR.full_name]
    inner = message
    if issubclass(cls, Choice):
        field = message.WhichOneof(cls.ONEOF)
        if field is not None:
            cls, inner = cls.CHOICES[field], getattr(message, field)
    values = {}
    for name in (field.name for field in dataclasses.fields(cast(Any, cls))):
        source = inner if name in inner.DESCRIPTOR.fields_by_name else message
        values[name] = _get(source, name)
    return cls(**values)


def _get(message: Message, name: str) -> object:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return tuple(decode(v) if isinstance(v, Message) else v for v in value)
    if field.enum_type is not None:
        return known(getattr(enums, field.enum_type.name), value)
    if field.has_presence and not message.HasField(name):
        return None
    return decode(value) if isinstance(value, Message) else value


def known(enum: type[E], number: int) -> E | None:
    """The member with that number; None for an unset one and one newer than this client."""
    return next((member for member in enum if member == number), None)
