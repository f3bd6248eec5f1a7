"""Algorithms by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from optserve_server.hyperparameters import Algorithm

T = TypeVar("T")


class Registry(Mapping[str, type[T]]):
    """The algorithms of one family by name: each module that defines one, in a package or below it.

    Args:
        family: name of the family, as in ``optimizers``.
        package: name of the package.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self._by_name: dict[str, type[Any]] = {}
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            for member in vars(importlib.import_module(found.name)).values():
                if _is_algorithm(member) and member.__module__ == found.name:
                    self._by_name[member.name] = member

    def __getitem__(self, name: str) -> type[T]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _is_algorithm(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Algorithm) and not inspect.isabstract(member)
