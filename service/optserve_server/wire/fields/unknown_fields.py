"""Detection of fields that this version of the contract does not have."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from optserve_server.errors import DomainError, Reason


def reject_unknown_fields(message: Message, field: str | None = None) -> None:
    """Rejects fields that this server does not know: they could change what a step means.

    Raises:
        DomainError: UNSUPPORTED_VALUE at ``field``; None for the message itself.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[index].field_number) for index in range(len(unknown)))
        name = message.DESCRIPTOR.name
        raise DomainError(
            Reason.UNSUPPORTED_VALUE,
            f"field {numbers} of {name} is not known; GetCapabilities lists what this server offers",
            field=field,
        )
