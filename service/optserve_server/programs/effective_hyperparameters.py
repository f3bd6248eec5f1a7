"""Hyperparameters of each parameter group in a step with overrides."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from optserve_server.errors import DomainError, Reason, out_of_range_error, within
from optserve_server.hyperparameters import declarations
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.programs.step_programs import make_group_programs
from optserve_server.spec.override import Override
from optserve_server.spec.session_spec import ParameterGroup, SessionSpec

_RATE, _DECAY, _L1, _L2 = "learning_rate", "decoupled_weight_decay", "l1", "l2"


class EffectiveHyperparameters:
    """Hyperparameters of each group in a step with overrides, by the group's name.

    An override changes numbers alone. One that would change a formula, such as a momentum of 0 that
    becomes 0.9, is rejected: UpdateSession makes such changes.

    Args:
        spec: the session's specification.
        overrides: the overrides; later ones take the place of earlier ones.

    Attributes:
        rules: the rules.
        rates: learning rates, of the groups that have an override of it, before factors.
        decays: decoupled weight decays.
        l1: factors of L1 regularization.
        l2: factors of L2 regularization.

    Raises:
        DomainError: UNSUPPORTED_VALUE for a name or a group that there is not, or a value that would
            change a formula; OUT_OF_RANGE. Fields start at
            ``options.overrides[i]``.
    """

    def __init__(self, spec: SessionSpec, overrides: Sequence[Override] = ()) -> None:
        groups = spec.groups_by_name
        self.rules = {name: spec.group_rule(group) for name, group in groups.items()}
        self.decays = {name: spec.weight_decay(group) for name, group in groups.items()}
        self.l1 = {name: spec.l1_factor(group) for name, group in groups.items()}
        self.l2 = {name: spec.l2_factor(group) for name, group in groups.items()}
        self.rates: dict[str, float] = {}
        for index, override in enumerate(overrides):
            with within(f"options.overrides[{index}]"):
                for name in _select_groups(override, groups):
                    self._apply_override(name, override)
                    _check_formula(spec, groups[name], self, name, override)

    def _apply_override(self, group: str, override: Override) -> None:
        name, value = override.name, override.value
        rule = self.rules[group]
        if name == _RATE:
            _replace_hyperparameter(rule, name, value)  # checks its range
            self.rates[group] = value
            return
        if name in (_L1, _L2) or (name == _DECAY and name not in declarations(type(rule))):
            if not 0 <= value < float("inf"):
                text = f"{name} is {value}, but must be at least 0"
                raise out_of_range_error("value", value, "at least 0", text)
            {_L1: self.l1, _L2: self.l2, _DECAY: self.decays}[name][group] = value
            return
        if name not in overridable_names(rule):
            allowed = ", ".join([*overridable_names(rule), _DECAY, _L1, _L2])
            raise DomainError(
                Reason.UNSUPPORTED_VALUE,
                f"{name!r} cannot be overridden for {rule.name}; what can is {allowed}",
                field="name",
                metadata={"allowed": allowed},
            )
        self.rules[group] = _replace_hyperparameter(rule, name, value)
        after = self.rules[group].decoupled_weight_decay
        if after != rule.decoupled_weight_decay and self.decays[group] == rule.decoupled_weight_decay:
            self.decays[group] = after


def _replace_hyperparameter(rule: Rule, name: str, value: float) -> Rule:
    """Returns a rule with another hyperparameter.

    Raises:
        DomainError: OUT_OF_RANGE or UNSUPPORTED_VALUE at ``value``.
    """
    try:
        return dataclasses.replace(rule, **{name: value})
    except DomainError as error:
        error.field = "value"
        raise


def overridable_names(rule: Rule) -> tuple[str, ...]:
    """The names of a rule's numeric hyperparameters."""
    values = {name: getattr(rule, name) for name in declarations(type(rule))}
    return tuple(name for name, value in values.items() if isinstance(value, float))


def depends_on_step_count(rule: Rule) -> bool:
    """Whether a rule's formula may depend on how many steps it has counted, tensor by tensor.

    A hyperparameter of 0 can switch that off, such as Momentum's dampening, and an override can switch
    it on in a later step. So the steps count from the first if any value of it makes them matter.
    """
    if isinstance(rule, GroupwiseRule):
        return False  # its numbers are those of a whole group
    variants = (rule, *_vary_zeros(rule))
    return bool(rule.initial_scalar_state()) or any(
        one.compute_scalars(1, 1.0) != one.compute_scalars(2, 1.0) for one in variants
    )


def _vary_zeros(rule: Rule) -> Iterator[Rule]:
    """The rule with each hyperparameter that is 0 set to another value, one at a time."""
    for name in overridable_names(rule):
        if getattr(rule, name) == 0:
            with contextlib.suppress(DomainError):  # the rule takes no other value beside its form
                yield dataclasses.replace(rule, **{name: 0.5})


def _select_groups(override: Override, groups: dict[str, ParameterGroup | None]) -> Iterator[str]:
    """The names of the groups that an override is for."""
    if override.group is None:
        yield from groups
    elif override.group in groups:
        yield override.group
    else:
        known = ", ".join(repr(name) for name in groups)
        text = f"there is no group {override.group!r}; the groups are {known}"
        raise DomainError(Reason.UNSUPPORTED_VALUE, text, field="group")


def _check_formula(
    spec: SessionSpec,
    group: ParameterGroup | None,
    found: EffectiveHyperparameters,
    name: str,
    override: Override,
) -> None:
    """Rejects an override that would change the programs of a group, and so need other kernels."""
    before = make_group_programs(spec, group)
    after = dataclasses.replace(
        before,
        rule=found.rules[name],
        gradient=dataclasses.replace(before.gradient, l1=found.l1[name], l2=found.l2[name]),
        decays=found.decays[name] != 0,
    )
    if before.kernel_key() != after.kernel_key():
        text = (
            f"{override.name} = {override.value:g} would change the formula of the step, not only its "
            "numbers; change it with UpdateSession, or begin with a value that is not 0"
        )
        raise DomainError(Reason.UNSUPPORTED_VALUE, text, field="value")
