"""The check of docstrings finds what has none."""

from __future__ import annotations

from types import ModuleType

from tools.docstrings import list_undocumented


class Bare:
    def method(self) -> None: ...


class Documented:
    """A class with a docstring."""

    def method(self) -> None:
        """A method with a docstring."""


class Derived(Documented):
    """A class whose method is documented in its base class."""

    def method(self) -> None: ...


def test_missing_docstrings_are_found() -> None:
    sample = ModuleType("sample", "A module with a docstring.")
    for member in (Bare, Documented, Derived):
        setattr(sample, member.__name__, member)
    assert list_undocumented(sample, __name__, "sample") == ["sample.Bare", "sample.Bare.method"]
    sample.__doc__ = None
    assert list_undocumented(sample, __name__, "sample")[0] == "sample"
