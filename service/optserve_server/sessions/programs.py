"""Which programs each parameter group of a session runs."""

from __future__ import annotations

from optserve_server.sessions.guards import StepPrograms
from optserve_server.sessions.spec import ParameterGroup, SessionSpec


def programs_of(spec: SessionSpec) -> dict[str, StepPrograms]:
    """The programs of each group by name; the default group's name is empty."""
    groups: dict[str, ParameterGroup | None] = {"": None, **{group.name: group for group in spec.groups}}
    return {
        name: StepPrograms(
            rule=spec.rule(group),
            gradient=spec.gradient,
            decays=spec.weight_decay(group) != 0,
            averages=spec.weight_average is not None,
        )
        for name, group in groups.items()
    }
