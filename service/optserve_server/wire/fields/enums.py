"""Enum values and enum members: a member is named as its value without the enum's prefix."""

from __future__ import annotations

import functools
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from optserve_server.errors import DomainError, Reason

E = TypeVar("E", bound=Enum)


def enum_member(kind: type[E], descriptor: EnumDescriptor, number: int) -> E:
    """The member of ``kind`` for a number other than 0.

    Raises:
        DomainError: UNSUPPORTED_VALUE, without a field.
    """
    members: dict[int, E] = _members_by_number(kind, descriptor)
    if number not in members:
        allowed = "one of " + ", ".join(member.name for member in members.values())
        raise DomainError(
            Reason.UNSUPPORTED_VALUE,
            f"{number} is no value of {descriptor.name} that can be used here",
            metadata={"range": allowed, "actual": number},
        )
    return members[number]


@functools.cache
def enum_number(member: Enum, descriptor: EnumDescriptor) -> int:
    """The number of ``member`` on the wire."""
    return descriptor.values_by_name[enum_prefix(descriptor) + member.name].number


def enum_prefix(descriptor: EnumDescriptor) -> str:
    """The common prefix of the values' names, taken from the UNSPECIFIED value."""
    return descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")


@functools.cache
def _members_by_number(kind: type[Enum], descriptor: EnumDescriptor) -> dict[int, Any]:
    start = len(enum_prefix(descriptor))
    names = {value.name[start:]: value.number for value in descriptor.values}
    return {names[member.name]: member for member in kind if member.name in names}
