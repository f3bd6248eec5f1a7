"""Dataclasses that stand for a server's messages, field by field."""

from __future__ import annotations

import dataclasses
from datetime import UTC
from typing import Any, ClassVar, Self, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from optserve import spec
from optserve.formatting import to_record
from optserve.html_tables import render_fields


class MessageRecord:
    """Base of dataclasses whose fields have the names that a message gives them."""

    BY_MESSAGE: ClassVar[dict[str, type[MessageRecord]]] = {}

    def __init_subclass__(cls, message: type[Message]) -> None:
        super().__init_subclass__()
        MessageRecord.BY_MESSAGE[message.DESCRIPTOR.full_name] = cls

    @classmethod
    def from_message(cls, message: Any, **converted: object) -> Self:
        """Decodes a message; ``converted`` are fields that it states in another form, or lacks."""
        names = {field.name for field in dataclasses.fields(cast(Any, cls))}
        return cls(**{name: _field_value(message, name) for name in names.difference(converted)}, **converted)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return render_fields(type(self).__name__, to_record(self))


def _field_value(message: Any, name: str) -> Any:
    """The value of a field: None if it is unset, a tuple if it is repeated."""
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.is_repeated:
        return tuple(_decode_value(one) for one in value)
    return None if field.has_presence and not message.HasField(name) else _decode_value(value)


def _decode_value(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if not isinstance(value, Message):
        return value
    record = MessageRecord.BY_MESSAGE.get(value.DESCRIPTOR.full_name)
    return spec.decode_spec(value) if record is None else record.from_message(value)
