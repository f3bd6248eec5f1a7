"""All sessions of a server, by id."""

from __future__ import annotations

import bisect
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.errors import DomainError, Reason, within
from optserve_server.initializers.base import Initializer
from optserve_server.resources.budget import Budget, Charge, Kind
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import DurabilityMode, DurabilitySpec, SessionSpec
from optserve_server.state.layout import Layout
from optserve_server.state.metric_monitors import count_session_bytes
from optserve_server.state.prepared_change import Prepared
from optserve_server.state.spec_update import check_groups
from optserve_server.state.staging import NamedArray
from optserve_server.state.state_transfer import StateTransfer
from optserve_server.state.step_result import StepOutcome


@dataclass(frozen=True)
class Limits:
    """Limits of a server; 0 means no limit. Bytes, or numbers of the thing named.

    Attributes:
        durability: of sessions that state none.
        durable: whether the server has a data directory.
    """

    max_sessions: int = 1000
    max_session_bytes: int = 0
    max_tensors: int = 100_000
    max_tensor_rank: int = 32
    max_message_bytes: int = 64 << 20
    chunk_bytes: int = 1 << 20
    durability: DurabilityMode = DurabilityMode.EPHEMERAL
    durable: bool = False


@dataclass(frozen=True)
class ParameterInit:
    """A parameter and its first value: an array, an initializer, or None for a later upload."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: npt.NDArray[Any] | Initializer | None


class Store:
    """The sessions.

    Args:
        backend: where their arrays live.
        limits: what is refused.
        budget: what its sessions count against; the limits' own number of them when None.
    """

    def __init__(self, backend: Backend, limits: Limits | None = None, budget: Budget | None = None) -> None:
        self.backend = backend
        self.limits = limits or Limits()
        self.budget = budget or Budget({"max_sessions": self.limits.max_sessions})
        self._sessions: dict[str, Session] = {}
        self._ids: list[str] = []
        self._damaged: set[str] = set()
        self._evicted: dict[str, Callable[[], Session]] = {}
        self._past = dict.fromkeys(StepOutcome, 0)

    def __len__(self) -> int:
        return len(self._ids)

    def create(
        self,
        session_id: str,
        spec: SessionSpec,
        parameters: Sequence[ParameterInit],
        seed: int = 0,
        keep: Callable[[Session], object] = lambda _: None,
        check: Callable[[], None] | None = None,
    ) -> Session:
        """Makes a session; with an empty id the store chooses one.

        Args:
            session_id: its id.
            spec: what it is to be.
            parameters: its parameters.
            seed: of their initializers.
            keep: called with the session before anybody finds it; there is none if it raises.
            check: called before each tensor is initialized, and often meanwhile; there is no session if it
                raises.

        Raises:
            DomainError: SESSION_EXISTS, LIMIT_EXCEEDED, QUOTA_EXCEEDED, FIELD_REQUIRED (no
                parameters), DUPLICATE_TENSOR, or what a wrong group raises.
        """
        session_id = self.choose_id(session_id)
        self.budget.check_available(Kind.SESSIONS, 1)
        self._check_parameters(parameters)
        layout = Layout([(p.name, p.dtype, p.shape) for p in parameters], spec.groups)
        self.check_size(layout, spec)
        spec = replace(spec, durability=self.resolve_durability(spec))
        pending = [p.name for p in parameters if p.source is None]
        session = Session(session_id, spec, layout, self.backend, seed, pending, self.budget)
        drawing = Charge(self.budget, Kind.IN_FLIGHT, _count_drawn_bytes(parameters))
        session.assign_parameters(session.stage_arrays(_make_initial_values(parameters, seed, check)))
        drawing.lower_to(0)
        self.add(session, keep)
        return session

    def choose_id(self, session_id: str) -> str:
        """An id for a new session: the one given, or a new one if it is empty.

        Raises:
            DomainError: SESSION_EXISTS.
        """
        session_id = session_id or secrets.token_hex(8)
        if session_id in self._sessions or session_id in self._damaged:
            name = f"sessions/{session_id}"
            raise DomainError(
                Reason.SESSION_EXISTS, f"{name} exists", field="session_id", metadata={"name": name}
            )
        return session_id

    def add(self, session: Session, keep: Callable[[Session], object] = lambda _: None) -> None:
        """Adds a session that was made elsewhere; see `create`.

        Raises:
            DomainError: LIMIT_EXCEEDED, QUOTA_EXCEEDED, or what ``keep`` raises.
        """
        self.budget.reserve(Kind.SESSIONS, 1)
        try:
            keep(session)
        except BaseException:
            self.budget.release(Kind.SESSIONS, 1)
            raise
        self._sessions[session.id] = session
        bisect.insort(self._ids, session.id)

    def add_damaged(self, session_id: str) -> None:
        """Notes that a session is there, but damaged."""
        self._damaged.add(session_id)

    @property
    def damaged_count(self) -> int:
        """Sessions that are there, but damaged."""
        return len(self._damaged)

    def is_damaged(self, session_id: str) -> bool:
        """Whether a session is there, but damaged."""
        return session_id in self._damaged

    def remove_damaged(self, session_id: str) -> None:
        """Forgets a damaged session."""
        self._damaged.discard(session_id)

    def get(self, session_id: str) -> Session:
        """The session of that id.

        Raises:
            DomainError: SESSION_NOT_FOUND, SESSION_DAMAGED, or STORAGE_UNAVAILABLE while it is
                on its way back into memory.
        """
        session = self._sessions.get(session_id)
        if session_id in self._damaged:
            raise DomainError(
                Reason.SESSION_DAMAGED,
                "the session's files were found damaged, and were set aside",
                field="name",
                metadata={"name": f"sessions/{session_id}"},
            )
        if session_id in self._evicted:
            session = self._sessions[session_id] = self._evicted[session_id]()
            del self._evicted[session_id]
        if session is None:
            name = f"sessions/{session_id}"
            raise DomainError(
                Reason.SESSION_NOT_FOUND, f"there is no {name}", field="name", metadata={"name": name}
            )
        return session

    def find(self, session_id: str) -> Session | None:
        """The session of that id as it is, also if it was evicted; None if there is none."""
        return self._sessions.get(session_id)

    def prepare_spec_update(
        self, session: Session, spec: SessionSpec, expected_step: int | None = None
    ) -> Prepared[list[StateTransfer]]:
        """Replaces a session's specification; see `Session.prepare_spec_update`.

        Raises:
            DomainError: LIMIT_EXCEEDED, or what `Session.prepare_spec_update` raises.
        """
        check_groups(session.layout, session.spec, spec)  # the size depends on them
        self.check_size(session.layout, spec)
        return session.prepare_spec_update(spec, expected_step=expected_step)

    def update_spec(
        self, session: Session, spec: SessionSpec, expected_step: int | None = None
    ) -> list[StateTransfer]:
        """Replaces a session's specification; see `prepare_spec_update`."""
        return self.prepare_spec_update(session, spec, expected_step).commit()

    def delete(self, session_id: str) -> None:
        """Forgets a session; those that still hold it find it closed.

        Raises:
            DomainError: SESSION_NOT_FOUND.
        """
        session = self.get(session_id)
        session.close()
        for outcome, count in session.activity.outcomes.items():
            self._past[outcome] += count
        del self._sessions[session_id]
        self._ids.remove(session_id)
        self.budget.release(Kind.SESSIONS, 1)

    def count_step_outcomes(self) -> dict[StepOutcome, int]:
        """Steps answered since the store was made, those of deleted sessions among them."""
        of_all = [session.activity.outcomes for session in self._sessions.values()]
        return {kind: past + sum(o[kind] for o in of_all) for kind, past in self._past.items()}

    def list_sessions(self) -> list[Session]:
        """All sessions that are in memory."""
        return [session for name, session in self._sessions.items() if name not in self._evicted]

    def register_evicted(self, session: Session, back: Callable[[], Session]) -> None:
        """Notes that a session is no longer in memory.

        Args:
            session: what is left of it, enough to describe it.
            back: gives it when it is used again.
        """
        self._evicted[session.id] = back

    def list_page(self, size: int, after: str = "") -> tuple[list[Session], str]:
        """Up to ``size`` sessions whose ids follow ``after``, and the last id, empty at the end."""
        start = bisect.bisect_right(self._ids, after)
        ids = self._ids[start : start + size]
        more = start + size < len(self._ids)
        return [self._sessions[session_id] for session_id in ids], ids[-1] if more else ""

    def check_size(self, layout: Layout, spec: SessionSpec) -> None:
        """Refuses a session that is too large.

        Raises:
            DomainError: LIMIT_EXCEEDED.
        """
        self._check_session_limit("max_tensors", len(layout.entries))
        self._check_session_limit("max_tensor_rank", max(len(entry.shape) for entry in layout.entries))
        self._check_session_limit("max_session_bytes", count_session_bytes(layout, spec))

    def resolve_durability(self, spec: SessionSpec) -> DurabilitySpec:
        """A specification's durability, or the server's where it states none.

        Raises:
            DomainError: DURABILITY_UNAVAILABLE.
        """
        wanted = spec.durability or DurabilitySpec(mode=self.limits.durability)
        if wanted.mode is not DurabilityMode.EPHEMERAL and not self.limits.durable:
            raise DomainError(
                Reason.DURABILITY_UNAVAILABLE,
                "the server has no data directory",
                field="spec.durability.mode",
            )
        return wanted

    def _check_parameters(self, parameters: Sequence[ParameterInit]) -> None:
        if not parameters:
            raise DomainError(Reason.FIELD_REQUIRED, "a session has parameters", field="parameters")
        self._check_session_limit("max_tensors", len(parameters))
        seen: set[str] = set()
        for index, parameter in enumerate(parameters):
            self._check_session_limit("max_tensor_rank", len(parameter.shape))
            if parameter.name in seen:
                raise DomainError(
                    Reason.DUPLICATE_TENSOR,
                    f"two parameters are named {parameter.name!r}",
                    field=f"parameters[{index}].name",
                    metadata={"tensor": parameter.name},
                )
            seen.add(parameter.name)

    def _check_session_limit(self, limit: str, wanted: int) -> None:
        allowed: int = getattr(self.limits, limit)
        if allowed and wanted > allowed:
            raise DomainError(
                Reason.LIMIT_EXCEEDED,
                f"{wanted} exceeds the server's {limit}, {allowed}",
                metadata={"limit": limit, "value": allowed},
            )


def _count_drawn_bytes(parameters: Sequence[ParameterInit]) -> int:
    """Returns the bytes that initializers hold until all tensors are drawn: float64 numbers."""
    drawn = [p for p in parameters if isinstance(p.source, Initializer)]
    return sum(math.prod(p.shape) * 8 for p in drawn)


def _make_initial_values(
    parameters: Sequence[ParameterInit], seed: int, check: Callable[[], None] | None
) -> list[NamedArray]:
    values = []
    for index, parameter in enumerate(parameters):
        if check is not None:
            check()
        source = parameter.source
        if isinstance(source, Initializer):
            # A stream of its own for each name, so that neither order nor neighbours matter.
            rng = np.random.default_rng([seed, *parameter.name.encode()])
            with within(f"parameters[{index}].initializer"):
                source = source.initialize(parameter.shape, parameter.dtype, rng, check)
        if source is not None:
            values.append(NamedArray(parameter.name, source))
    return values
