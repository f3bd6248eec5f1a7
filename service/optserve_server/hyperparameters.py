"""Hyperparameters: dataclass fields with a range and a default per convention.

A default and a range live in one place, the field's declaration; messages, answers
and documentation are all derived from it.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar, cast, get_type_hints

from optserve_server.errors import DomainError, Reason


class Convention(StrEnum):
    """A named set of defaults."""

    KERAS = "KERAS"
    TORCH = "TORCH"
    OPTAX = "OPTAX"
    LECTURE = "LECTURE"


NamedNumbers: TypeAlias = tuple[tuple[str, float], ...]
"""Numbers by name, in the order of their names: what a map of them becomes in a dataclass."""


class Required:
    """The default of a field that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()


@dataclasses.dataclass(frozen=True)
class Declaration:
    """Declaration of one field, made by `hyper`."""

    defaults: Mapping[Convention, object]
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    allowed: tuple[object, ...] | None = None

    def range_text(self) -> str:
        """The range in words: ``"in [0, 1)"``, ``"greater than 0"``, or empty."""
        if self.allowed is not None:
            names = [a.name if isinstance(a, Enum) else str(a) for a in self.allowed]
            return "one of " + ", ".join(names)
        low = self.ge if self.ge is not None else self.gt
        high = self.le if self.le is not None else self.lt
        if low is not None and low == high:
            return f"{low:g}"
        if low is not None and high is not None:
            opening = "[" if self.ge is not None else "("
            closing = "]" if self.le is not None else ")"
            return f"in {opening}{low:g}, {high:g}{closing}"
        if low is not None:
            return f"at least {low:g}" if self.ge is not None else f"greater than {low:g}"
        if high is not None:
            return f"at most {high:g}" if self.le is not None else f"less than {high:g}"
        return ""

    def is_allowed(self, value: object) -> bool:
        """Whether ``value`` lies in the range; floats must be finite as well."""
        if self.allowed is not None and value not in self.allowed:
            return False
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )


def hyper(
    default: object = REQUIRED,
    *,
    torch: object = None,
    optax: object = None,
    lecture: object = None,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    allowed: tuple[object, ...] | None = None,
) -> Any:
    """Declares a hyperparameter.

    Args:
        default: its value under KERAS, and under every convention not given its own;
            left out, the field is required.
        torch: its default under TORCH.
        optax: its default under OPTAX.
        lecture: its default under LECTURE.
        gt: values must be greater than this.
        ge: values must be at least this.
        lt: values must be less than this.
        le: values must be at most this.
        allowed: values must be one of these.
    """
    own = {Convention.TORCH: torch, Convention.OPTAX: optax, Convention.LECTURE: lecture}
    defaults = {c: default if own.get(c) is None else own[c] for c in Convention}
    declaration = Declaration(defaults, gt, ge, lt, le, allowed)
    if default is REQUIRED:
        return dataclasses.field(kw_only=True, metadata={"hyper": declaration})
    return dataclasses.field(default=default, kw_only=True, metadata={"hyper": declaration})


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Base of every algorithm's dataclass. Checks its ranges when it is made.

    Raises:
        DomainError: OUT_OF_RANGE or UNSUPPORTED_VALUE, naming the field.
    """

    def __post_init__(self) -> None:
        for name, declaration in declarations(type(self)).items():
            value = getattr(self, name)
            if not declaration.is_allowed(value):
                reason = Reason.UNSUPPORTED_VALUE if declaration.allowed else Reason.OUT_OF_RANGE
                allowed = declaration.range_text() or "finite"
                shown = value.name if isinstance(value, Enum) else value
                raise DomainError(
                    reason,
                    f"{name} is {shown}, but must be {allowed}",
                    field=name,
                    metadata={"range": allowed, "actual": shown},
                )
        self.validate()

    def validate(self) -> None:
        """Checks what concerns several fields at once. Does nothing by default."""

    @classmethod
    def resolve(cls, given: Mapping[str, object], convention: Convention) -> Self:
        """Makes an instance from the given fields and the convention's defaults.

        Raises:
            DomainError: FIELD_REQUIRED, OUT_OF_RANGE, UNSUPPORTED_VALUE or
                CONFLICTING_FIELDS, naming the field.
        """
        values = dict(given)
        for name, declaration in declarations(cls).items():
            if name in values:
                continue
            default = declaration.defaults[convention]
            if default is REQUIRED:
                raise DomainError(Reason.FIELD_REQUIRED, f"{name} is required", field=name)
            values[name] = default
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Algorithm(Hyperparameters, ABC):
    """A member of a family, such as an optimizer.

    Attributes:
        name: that of its module, and of its field in the contract's oneof.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__module__.rpartition(".")[2]


def declarations(cls: type[Hyperparameters]) -> dict[str, Declaration]:
    """The declared hyperparameters of ``cls`` by name, in order."""
    return {
        field.name: cast(Declaration, field.metadata["hyper"])
        for field in dataclasses.fields(cls)
        if "hyper" in field.metadata
    }


def field_types(cls: type[Hyperparameters]) -> dict[str, Any]:
    """The declared types of the hyperparameters of ``cls`` by name, in order."""
    hints = get_type_hints(cls)
    return {name: hints[name] for name in declarations(cls)}


A = TypeVar("A", covariant=True)


@dataclasses.dataclass(frozen=True)
class Chosen(Generic[A]):
    """An algorithm as a caller chose it.

    Attributes:
        algorithm: the resolved algorithm.
        convention: whose defaults filled what was left unset.
        given: names of the hyperparameters that the caller set.
    """

    algorithm: A
    convention: Convention = Convention.KERAS
    # Not what an algorithm is, only how it was asked for.
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)
