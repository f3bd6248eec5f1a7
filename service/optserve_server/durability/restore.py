"""Restore of a session's state from one of its snapshots."""

from __future__ import annotations

from optserve_server.sessions.session import Session
from optserve_server.state.activity import Updated


def restore_state(session: Session, state: Session) -> None:
    """Gives a session another state.

    What workers had answered stays. So do the parameters' places, for others may read them there.

    Args:
        session: the session, locked.
        state: a session of the same tensors, which is no longer used.
    """
    arenas = session.arenas
    with session.changing:
        for dtype, parameters in arenas.parameters.items():
            parameters[:] = state.arenas.parameters[dtype]
        for partition in state.arenas.partitions.values():
            partition.move_to(arenas.parameters[partition.dtype])
        arenas.partitions = state.arenas.partitions
    session.spec, session.scalars, session.monitors = state.spec, state.scalars, state.monitors
    session.step, session.accumulated, session.skipped = state.step, state.accumulated, state.skipped
    session.resident_bytes = state.resident_bytes
    session.charge, session.waiting = state.charge, state.waiting
    session.activity.publish(Updated())
