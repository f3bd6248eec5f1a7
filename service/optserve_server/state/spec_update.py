"""Update of a session's specification: validation, defaults, and transfer of state."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from optserve_server.errors import DomainError, Reason, conflict_error
from optserve_server.programs.step_programs import make_programs
from optserve_server.spec.session_spec import DurabilityMode, SessionSpec
from optserve_server.state.arenas import Partitions
from optserve_server.state.layout import Layout, assign_groups
from optserve_server.state.metric_monitors import count_session_bytes
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.session_state import SessionState
from optserve_server.state.state_transfer import StateTransfer


def prepare_spec_update(session: SessionState, spec: SessionSpec) -> Prepared[list[StateTransfer]]:
    """Prepares a session's change to another specification; see `Session.prepare_spec_update`.

    Raises:
        DomainError: STEP_INCOMPLETE, CONFLICTING_FIELDS, or what the budget raises.
    """
    spec = inherit_durability(session.spec, spec)
    check_groups(session.layout, session.spec, spec)
    if session.accumulated:
        needed = session.spec.gradient.accumulation_steps
        raise DomainError(
            Reason.STEP_INCOMPLETE,
            f"{session.accumulated} of {needed} gradients wait for the rest of their step",
            metadata={"accumulated": session.accumulated, "needed": needed},
        )
    session.charge.raise_to(count_session_bytes(session.layout, spec))
    try:
        commit = partial(_apply_update, session, spec, *session.arenas.replace_programs(make_programs(spec)))
    except BaseException:
        session.charge.lower_to(session.resident_bytes)
        raise
    return Prepared(commit, partial(session.charge.lower_to, session.resident_bytes))


def _apply_update(
    session: SessionState, spec: SessionSpec, partitions: Partitions, transfers: list[StateTransfer]
) -> list[StateTransfer]:
    restarted = [transfer.group for transfer in transfers if transfer.restarted]
    monitors = session.monitors.replace_spec(session.spec, spec, session.arenas)
    session.scalars = session.scalars.replace_spec(spec, restarted)
    session.scalars.reduction = monitors.learning_rate_factor
    session.monitors = monitors
    session.arenas.partitions = partitions
    session.resident_bytes = count_session_bytes(session.layout, spec)
    session.charge.lower_to(session.resident_bytes)
    session.spec = spec
    return transfers


def inherit_durability(before: SessionSpec, after: SessionSpec) -> SessionSpec:
    """The new specification with the old one's durability where it states none.

    Raises:
        DomainError: CONFLICTING_FIELDS if a session would begin or cease to be durable.
    """
    if after.durability is None or before.durability is None:
        return replace(after, durability=before.durability)
    modes = {before.durability.mode, after.durability.mode}
    if len(modes) > 1 and DurabilityMode.EPHEMERAL in modes:
        text = "a session that is held in memory alone stays so, and no other becomes one; fork it"
        raise conflict_error("spec.durability.mode", text)
    return after


def check_groups(layout: Layout, before: SessionSpec, after: SessionSpec) -> None:
    """Refuses other groups, or other members of theirs.

    Raises:
        DomainError: CONFLICTING_FIELDS.
    """
    membership = assign_groups([entry.name for entry in layout.entries], after.groups)
    names = [[group.name for group in spec.groups] for spec in (before, after)]
    if names[0] != names[1] or any(membership[entry.name] != entry.group for entry in layout.entries):
        raise conflict_error(
            "spec.groups", "groups keep their names and members for as long as a session lives"
        )
