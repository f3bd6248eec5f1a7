"""The part of a session that reading, plans, monitors and spec updates work on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from optserve_server.programs.step_scalars import SessionScalars
from optserve_server.resources.budget import Charge
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.state.arena import Arenas
from optserve_server.state.layout import Layout
from optserve_server.state.monitors import Monitors


class SessionState(Protocol):
    """Specification, arrays and counters of a session.

    Attributes:
        spec: the specification.
        layout: its tensors.
        arenas: parameters and optimizer state.
        scalars: the scalars of its steps.
        monitors: the state of its monitors.
        step: optimizer steps taken.
        accumulated: gradients accumulated towards the next step.
        changing: a context that marks the session as damaged if a change inside it fails.
        charge: the memory that is counted for it.
        resident_bytes: bytes of its arrays.
    """

    spec: SessionSpec
    layout: Layout
    arenas: Arenas
    scalars: SessionScalars
    monitors: Monitors
    step: int
    accumulated: int
    changing: AbstractContextManager[None]
    charge: Charge
    resident_bytes: int

    @property
    def has_open_round(self) -> bool:
        """Whether contributions have been added to a round that is not closed."""
