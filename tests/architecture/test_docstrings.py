"""Everything public says what it is, itself or through what it overrides."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import optserve
import optserve_server


def modules_of(package: ModuleType) -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [name for name in found if not name.startswith("optserve.v1.") and not name.endswith("__main__")]


MODULES = [*modules_of(optserve), *modules_of(optserve_server)]


def own_members(owner: object, module: str) -> list[tuple[str, object]]:
    """Public classes, functions and properties that ``owner`` declares in ``module``."""
    kinds = (type, staticmethod, classmethod, property)
    return [
        (name, member)
        for name, member in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, kinds))
        and getattr(member, "__module__", module) == module
    ]


def undocumented(owner: object, module: str, path: str) -> list[str]:
    missing = []
    for name, member in own_members(owner, module):
        # Through the owner, so that an override finds the docstring of what it overrides.
        if not inspect.getdoc(getattr(owner, name)):
            missing.append(f"{path}.{name}")
        if isinstance(member, type):
            missing += undocumented(member, module, f"{path}.{name}")
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert undocumented(module, name, name) == []


class Bare:
    def method(self) -> None: ...


class Documented:
    """It is."""

    def method(self) -> None:
        """So is this."""


class Derived(Documented):
    """This too, and its method through its base."""

    def method(self) -> None: ...


def test_a_missing_docstring_is_noticed() -> None:
    sample = ModuleType("sample")
    for member in (Bare, Documented, Derived):
        setattr(sample, member.__name__, member)
    assert undocumented(sample, __name__, "sample") == ["sample.Bare", "sample.Bare.method"]
