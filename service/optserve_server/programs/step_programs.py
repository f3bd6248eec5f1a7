"""Selection of the programs of each parameter group."""

from __future__ import annotations

import dataclasses

from optserve_server.programs.gradient_transforms import StepPrograms
from optserve_server.spec.session_spec import ParameterGroup, SessionSpec


def programs_of(spec: SessionSpec) -> dict[str, StepPrograms]:
    """The programs of each group by name; the default group's name is empty."""
    return {name: programs_of_group(spec, group) for name, group in spec.groups_by_name.items()}


def programs_of_group(spec: SessionSpec, group: ParameterGroup | None) -> StepPrograms:
    """The programs of one group; None stands for the default group."""
    return StepPrograms(
        rule=spec.rule(group),
        gradient=dataclasses.replace(spec.gradient, l1=spec.l1(group), l2=spec.l2(group)),
        decays=spec.weight_decay(group) != 0,
        averages=spec.weight_average is not None,
    )
