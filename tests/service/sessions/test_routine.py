"""A routine's steps are a session's steps, to the bit; what is unusual it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.hyper import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.momentum import Momentum
from optserve_server.schedules.exponential import Exponential
from optserve_server.sessions.guards import PARAMETER
from optserve_server.sessions.incoming import Incoming
from optserve_server.sessions.reading import Point, Reply
from optserve_server.sessions.result import StepOptions, StepResult
from optserve_server.sessions.routine import Routine
from optserve_server.sessions.session import Session
from optserve_server.sessions.spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    GradientSpec,
    NonFinitePolicy,
    ParameterGroup,
    SessionSpec,
    WeightAverageSpec,
)
from optserve_server.sessions.staging import Staging
from optserve_server.sessions.store import Store
from tests.service.sessions.support import session_of, spec_of

VALUES = {
    "a": np.linspace(-1, 1, 700, dtype=np.float32).reshape(7, 100),
    "b": np.linspace(2, 3, 33, dtype=np.float32),
    "c": np.linspace(0, 1, 5, dtype=np.float64),
}
ALLOW = NonFinitePolicy.ALLOW
SPECS: Mapping[str, Callable[[], SessionSpec]] = {
    "adam": lambda: spec_of(Adam()),
    "momentum": lambda: spec_of(Momentum(learning_rate=0.1)),
    "allowed": lambda: spec_of(Adam(), gradient=GradientSpec(non_finite=ALLOW)),
    "clipped by value": lambda: spec_of(Adam(), gradient=GradientSpec(clip=ClipByValue(max_value=0.5))),
    "clipped by norm": lambda: spec_of(Adam(), gradient=GradientSpec(clip=ClipByGlobalNorm(max_norm=0.5))),
    "clipped, allowed": lambda: spec_of(
        Adam(), gradient=GradientSpec(clip=ClipByGlobalNorm(max_norm=0.5), non_finite=ALLOW)
    ),
    "averaged": lambda: spec_of(AdamW(), weight_average=WeightAverageSpec(decay=0.9)),
    "scheduled": lambda: spec_of(
        Adam(), schedule=Chosen(Exponential(initial_learning_rate=0.1, decay_steps=10, decay_rate=0.5))
    ),
    "groups": lambda: spec_of(
        AdamW(weight_decay=0.1),
        groups=(
            ParameterGroup(name="slow", tensors=("a",), learning_rate_factor=0.1, decoupled_weight_decay=0.0),
        ),
    ),
}
BACKENDS: Mapping[str, Callable[[], Backend]] = {"numpy": NumpyBackend, "numba": NumbaBackend}


def take(
    routine: Routine, sequence: int, expected_step: int | None = None, gradient_id: int = 0
) -> StepResult | None:
    """The step, if the routine takes it."""
    return routine.commit() if routine.prepare(sequence, expected_step, gradient_id) else None


def state(session: Session) -> list[bytes]:
    """Parameters and slots, and everything that is counted."""
    arrays = [array for p in session.arenas.partitions.values() for array in p.arrays.values()]
    counted = repr((session.step, session.skipped, session.accumulated, session.ledger.state()))
    return [array.tobytes() for array in arrays] + [counted.encode()]


def fill(staging: Staging, number: int) -> None:
    generator = np.random.default_rng(number)
    for tensor in staging.tensors:
        staging.array(tensor)[:] = generator.standard_normal(tensor.size)


class Pair:
    """A session that is stepped by a routine, and one that is not."""

    def __init__(
        self,
        spec: SessionSpec,
        backend: Callable[[], Backend] = NumpyBackend,
        *,
        worker: str = "w",
        replies: str = "in place",
        point: Point = Point.PARAMETERS,
        **options: Any,
    ) -> None:
        made = backend()
        self.sessions = [session_of(spec, VALUES, Store(made)) for _ in range(2)]
        self.stagings = [session.stage(None, None) for session in self.sessions]
        self.replies = [self._reply(s, g, replies, point) for s, g in zip(*self._sides(), strict=True)]
        self.worker, self.options, self.number = worker, options, 0
        self.routine: Routine | None = None

    def _sides(self) -> tuple[list[Session], list[Staging]]:
        return self.sessions, self.stagings

    def _reply(self, session: Session, gradient: Staging, where: str, point: Point) -> Reply | None:
        if where == "none":
            return None
        return Reply(point, gradient if where == "in place" else session.stage(None, np.dtype(np.float32)))

    def step(self, *, by_routine: bool) -> bool:
        """Takes a step of both, and compares; whether the routine took one."""
        self.number += 1
        for staging in self.stagings:
            fill(staging, self.number)
        sequence = self.number if self.worker else 0
        options = StepOptions(self.worker, sequence, **self.options)
        ordinary, other = self.sessions
        from_ordinary = self._ordinary(0, options)
        found = None
        if by_routine and self.routine is not None:
            found = take(self.routine, sequence, options.expected_step, options.gradient_id)
        taken = found is not None
        found = found or self._ordinary(1, options)
        assert found == from_ordinary
        assert state(ordinary) == state(other)
        for mine, reply in zip(self.stagings, self.replies, strict=True):
            if reply is not None and reply.staging is not mine:
                assert reply.staging.buffer.tobytes() == self.replies[0].staging.buffer.tobytes()  # type: ignore[union-attr]
        assert self.stagings[0].buffer.tobytes() == self.stagings[1].buffer.tobytes()
        self.routine = Routine.of(other, self.stagings[1], options, self.replies[1])
        return taken

    def _ordinary(self, side: int, options: StepOptions) -> Any:
        session = self.sessions[side]
        incoming = Incoming.whole(session, self.stagings[side], options)
        return session.prepare(incoming).commit(self.replies[side])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("replies", ["in place", "elsewhere", "none"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_routine_steps_as_the_session_does(backend: str, replies: str, spec: str) -> None:
    pair = Pair(SPECS[spec](), BACKENDS[backend], replies=replies)
    assert [pair.step(by_routine=True) for _ in range(6)] == [False, False, True, True, True, True]


@pytest.mark.parametrize("options", [{"worker": ""}, {"loss_scale": 8.0}, {"gradient_id": 7}])
def test_so_it_does_whatever_each_step_asks_for(options: dict[str, Any]) -> None:
    pair = Pair(SPECS["clipped by norm"](), **options)
    assert [pair.step(by_routine=True) for _ in range(4)] == [False, False, True, True]


def test_the_average_may_be_what_is_sent_back() -> None:
    pair = Pair(SPECS["averaged"](), point=Point.AVERAGE)
    assert [pair.step(by_routine=True) for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (spec_of(Adam(), gradient=GradientSpec(clip=ClipByTensorNorm(max_norm=0.5))), {}),
        (spec_of(Adam(), gradient=GradientSpec(accumulation_steps=2)), {"replies": "none"}),
        (spec_of(Adam(), gradient=GradientSpec(l2=0.1)), {}),
        (spec_of(Adam(), gradient=GradientSpec(l1=0.1)), {}),
        (spec_of(LAMB()), {}),
        (spec_of(Adam()), {"per_tensor_norms": True}),
        (spec_of(Adam()), {"validate_only": True, "worker": "", "replies": "none"}),
    ],
)
def test_where_each_step_has_to_be_looked_at_there_is_none(
    spec: SessionSpec, options: dict[str, Any]
) -> None:
    pair = Pair(spec, **options)
    assert not any(pair.step(by_routine=True) for _ in range(4))
    assert pair.routine is None


@pytest.fixture
def pair() -> Pair:
    made = Pair(SPECS["adam"]())
    for _ in range(3):
        made.step(by_routine=True)
    return made


def untouched(pair: Pair, act: Callable[[Routine], object]) -> None:
    """The routine declines, and changes nothing."""
    assert pair.routine is not None
    before = state(pair.sessions[1])
    assert act(pair.routine) is None
    assert state(pair.sessions[1]) == before


@pytest.mark.parametrize("sequence", [0, 3, 5, 2**63])
def test_another_sequence_is_left_alone(pair: Pair, sequence: int) -> None:
    untouched(pair, lambda routine: take(routine, sequence))


@pytest.mark.parametrize("expected", [0, 2, 4])
def test_another_expected_step_is_left_alone(pair: Pair, expected: int) -> None:
    untouched(pair, lambda routine: take(routine, 4, expected))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_left_alone(pair: Pair, bad: float) -> None:
    pair.stagings[1].array(pair.stagings[1].tensors[0])[5] = bad
    untouched(pair, lambda routine: take(routine, 4))


def test_where_all_is_allowed_it_counts() -> None:
    pair = Pair(SPECS["allowed"]())
    for _ in range(3):
        pair.step(by_routine=True)
    assert pair.routine is not None
    fill(pair.stagings[1], 9)
    pair.stagings[1].array(pair.stagings[1].tensors[0])[5] = np.nan
    result = take(pair.routine, 4)
    assert result is not None
    assert (result.step, result.non_finite_count) == (4, 1)


def test_a_session_that_has_changed_is_left_alone(pair: Pair) -> None:
    session = pair.sessions[1]
    session.update(spec_of(Adam(learning_rate=0.5)))
    untouched(pair, lambda routine: take(routine, 4))


@pytest.mark.parametrize("mark", ["closed", "damaged"])
def test_a_session_that_is_no_more_is_left_alone(pair: Pair, mark: str) -> None:
    setattr(pair.sessions[1], mark, True)
    untouched(pair, lambda routine: take(routine, 4))


def test_a_step_that_fails_half_way_damages_its_session(pair: Pair, monkeypatch: Any) -> None:
    assert pair.routine is not None

    class Failing:
        def totals(self, scalars: object) -> None:
            raise RuntimeError("as a kernel may")

    monkeypatch.setattr(pair.routine, "_applies", [Failing()])
    with pytest.raises(RuntimeError):
        take(pair.routine, 4)
    assert pair.sessions[1].damaged
    assert pair.sessions[1].step == 3
    assert PARAMETER in next(iter(pair.sessions[1].arenas.partitions.values())).arrays
