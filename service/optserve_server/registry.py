"""Algorithms by name: the fields of a family's oneof in the contract, which a test holds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from optserve_server.hyper import Hyperparameters

T = TypeVar("T")


class Registry(Mapping[str, type[T]]):
    """The classes of one family by name: those in the modules of a package that have a ``name``.

    Args:
        family: name of the family, as in ``optimizers``.
        package: name of the package.

    Raises:
        ValueError: two classes have one name.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self._by_name: dict[str, type[Any]] = {}
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            for member in vars(importlib.import_module(found.name)).values():
                if _is_algorithm(member, found.name):
                    if member.name in self._by_name:
                        raise ValueError(f"two members of {family} are named {member.name}")
                    self._by_name[member.name] = member

    def __getitem__(self, name: str) -> type[T]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _is_algorithm(member: Any, module: str) -> bool:
    """Whether a module's member is an algorithm that the module defines, not one that it imports."""
    return (
        isinstance(member, type)
        and issubclass(member, Hyperparameters)
        and member.__module__ == module
        and "name" in vars(member)
    )
