"""A session's next specification: what it may say, and what holds where it says nothing."""

from __future__ import annotations

from dataclasses import replace

from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.layout import Layout, assign_groups
from optserve_server.sessions.spec import DurabilityMode, SessionSpec


def with_durability(before: SessionSpec, after: SessionSpec) -> SessionSpec:
    """The new specification with the old one's durability where it states none.

    Raises:
        DomainError: CONFLICTING_FIELDS where a session would begin or cease to be kept.
    """
    if after.durability is None or before.durability is None:
        return replace(after, durability=before.durability)
    modes = {before.durability.mode, after.durability.mode}
    if len(modes) > 1 and DurabilityMode.EPHEMERAL in modes:
        raise DomainError(
            Reason.CONFLICTING_FIELDS,
            "a session that is held in memory alone stays so, and no other becomes one; fork it",
            field="spec.durability.mode",
        )
    return after


def check_groups(layout: Layout, before: SessionSpec, after: SessionSpec) -> None:
    """Refuses other groups, or other members of theirs.

    Raises:
        DomainError: CONFLICTING_FIELDS.
    """
    membership = assign_groups([entry.name for entry in layout.entries], after.groups)
    names = [[group.name for group in spec.groups] for spec in (before, after)]
    if names[0] != names[1] or any(membership[entry.name] != entry.group for entry in layout.entries):
        raise DomainError(
            Reason.CONFLICTING_FIELDS,
            "groups keep their names and members for as long as a session lives",
            field="spec.groups",
        )
