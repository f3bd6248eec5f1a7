"""Every program that a session can ask for: each rule with each setting of its flags."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from enum import Enum
from typing import Any

from optserve_server.arrays.program import Program
from optserve_server.errors import DomainError
from optserve_server.hyperparameters import declarations, field_types
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.programs.step_programs import StepPrograms
from optserve_server.spec.session_spec import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, GradientSpec


@dataclasses.dataclass(frozen=True)
class Variant:
    """One program and what it came from.

    Attributes:
        label: for people.
        rule: the rule.
        programs: the guards around it.
        scaled: whether the gradient comes with a loss scale.
        representative: whether it is tested if there is no time for all.
    """

    label: str
    rule: ElementwiseRule
    programs: StepPrograms
    scaled: bool
    representative: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is a rule with nothing around it, and nothing switched off in it."""
        return self.programs.gradient == BARE and getattr(self.rule, "epsilon", 1.0) != 0

    @property
    def program(self) -> Program:
        """The step's program."""
        return self.programs.trace_apply(self.scaled)


def rules() -> Iterator[tuple[str, ElementwiseRule]]:
    """Each rule with each combination of its enums, booleans and optional slots."""
    for cls in REGISTRY.values():
        if not issubclass(cls, ElementwiseRule):
            continue  # what is not element-wise has no program of its own
        choices = _choices(cls)
        for values in itertools.product(*choices.values()):
            flags = dict(zip(choices, values, strict=True))
            try:
                rule = cls(**flags)
            except DomainError:
                continue  # a combination that the rule itself refuses
            shown = ",".join(f"{k}={v.name if isinstance(v, Enum) else v}" for k, v in flags.items())
            yield f"{cls.name}({shown})", rule
        plain: Any = cls()
        if getattr(plain, "epsilon_root", None) == 0.0:  # not used unless it is given
            yield f"{cls.name}(epsilon_root=0.5)", dataclasses.replace(plain, epsilon_root=0.5)


def _choices(cls: type[ElementwiseRule]) -> dict[str, list[object]]:
    choices: dict[str, list[object]] = {}
    for name, kind in field_types(cls).items():
        if isinstance(kind, type) and issubclass(kind, Enum):
            choices[name] = list(declarations(cls)[name].allowed or kind)
        elif kind is bool:
            choices[name] = [False, True]
        elif kind is float and (_switches_a_slot(cls, name) or (name == "epsilon" and _takes_zero(cls))):
            choices[name] = [0.5, 0.0]
    return choices


def _switches_a_slot(cls: type[ElementwiseRule], name: str) -> bool:
    try:
        return list(cls(**{name: 0.0}).slots()) != list(cls(**{name: 0.5}).slots())
    except DomainError:
        return False


def _takes_zero(cls: type[ElementwiseRule]) -> bool:
    """Whether epsilon may be 0, which makes another program: nothing divides by 0 there."""
    return declarations(cls)["epsilon"].is_allowed(0.0)


BARE = GradientSpec()
FULL = GradientSpec(accumulation_steps=2, l1=0.01, l2=0.02, clip=ClipByGlobalNorm(max_norm=1.0))
BY_VALUE = GradientSpec(clip=ClipByValue(max_value=0.5))
BY_TENSOR = GradientSpec(l2=0.02, clip=ClipByTensorNorm(max_norm=1.0))


def variants() -> list[Variant]:
    """Every rule bare and with all guards at once; every guard around one rule. No program twice.

    The first variant of each rule, and all guards around Adam, represent the others.
    """
    found: dict[Program, Variant] = {}
    for label, rule in rules():
        _add(found, label, rule, StepPrograms(rule, BARE, decays=False, averages=False), scaled=False)
        if getattr(rule, "epsilon", 1.0) == 0:
            continue  # what a zero switches off lies within the rule, whatever surrounds it
        _add(
            found, f"{label} guarded", rule, StepPrograms(rule, FULL, decays=True, averages=True), scaled=True
        )
    label, rule = next((label, rule) for label, rule in rules() if rule.name == "adam")
    for guard, gradient in {"by value": BY_VALUE, "by tensor": BY_TENSOR}.items():
        _add(
            found,
            f"{label} {guard}",
            rule,
            StepPrograms(rule, gradient, decays=True, averages=False),
            scaled=False,
        )
    known: set[str] = set()
    for program, variant in found.items():
        if variant.rule.name not in known or (variant.rule.name == "adam" and not variant.plain):
            found[program] = dataclasses.replace(variant, representative=True)
        known.add(variant.rule.name)
    return list(found.values())


def _add(
    found: dict[Program, Variant], label: str, rule: ElementwiseRule, programs: StepPrograms, *, scaled: bool
) -> None:
    variant = Variant(label, rule, programs, scaled)
    found.setdefault(variant.program, variant)
