"""What is done for the next step when an answer is on its way: it changes no bit, and need not be done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import Rule
from optserve_server.schedules.piecewise_constant import PiecewiseConstant
from optserve_server.sessions.session import Session
from optserve_server.spec.override import Override
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import SessionSpec
from tests.service.sessions.support import parameters, session_of, spec_of, step

START = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
RISING = Chosen(PiecewiseConstant(boundaries=(1, 2), values=(0.1, 0.2, 0.4)))
PLATEAU = ReduceOnPlateauSpec(monitor="loss", factor=0.5, patience=1)
STEPS: list[dict[str, Any]] = [
    {},
    {},
    {"loss_scale": 4.0},
    {"overrides": (Override(None, "learning_rate", 0.3),)},
    {},
    {},
]


def rule_of(name: str) -> Rule:
    return REGISTRY[name](learning_rate=0.1)


SPECS = {name: spec_of(rule_of(name)) for name in REGISTRY} | {
    "schedule": spec_of(Adam(), schedule=RISING),
    "plateau": spec_of(Adam(), reduce_on_plateau=PLATEAU),
}


def states_of(session: Session, *, is_prepared: bool) -> list[object]:
    """Learning rates and parameters of steps between which a metric is reported."""
    found: list[object] = []
    for number, options in enumerate(STEPS):
        gradient = np.random.default_rng(number).standard_normal((3, 4)).astype(np.float32)
        found += [step(session, {"w": gradient}, **options), parameters(session)["w"].tobytes()]
        if is_prepared:
            session.prepare_next_step()
        session.report_metrics({"loss": 1.0})
    return found


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_steps_have_the_same_results_and_bits(spec: SessionSpec) -> None:
    plain, prepared = session_of(spec, START), session_of(spec, START)
    assert states_of(prepared, is_prepared=True) == states_of(plain, is_prepared=False)


@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_history_has_every_step(is_prepared: bool) -> None:
    session = session_of(spec_of(), START)
    for count in range(1, 4):
        step(session, START, worker=f"worker {count}", sequence=1)
        if is_prepared:
            session.prepare_next_step()
        assert session.history.list_workers()[-1] == f"worker {count}"
        assert session.history.steps.read_history_points()["step"].tolist() == list(range(1, count + 1))
