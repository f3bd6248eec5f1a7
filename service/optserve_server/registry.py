"""Algorithms by name.

A family's ``ALL`` list is its registry; names come from the classes themselves and
equal the fields of the family's oneof, which a test holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar


class Named(Protocol):
    """Anything with a registry key."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The classes of one family by name.

    Args:
        family: name of the family, as in ``optimizers``.
        members: its classes.
    """

    def __init__(self, family: str, members: Sequence[type[T]]) -> None:
        self.family = family
        self._by_name = {member.name: member for member in members}
        if len(self._by_name) != len(members):
            raise ValueError(f"two members of {family} share a name")

    def __getitem__(self, name: str) -> type[T]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)
