"""A session in a snapshot: the restored one continues with the same bits."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.snapshot_codec import decode_snapshot, encode_snapshot
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.momentum import Momentum
from optserve_server.sessions.session import Session
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import (
    GradientSpec,
    NonFinitePolicy,
    ParameterGroup,
    WeightAverageSpec,
)
from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.service.sessions.support import parameters, session_of, spec_of, step

BACKEND = NumpyBackend()
VALUES: dict[str, np.ndarray[Any, Any]] = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "b": np.ones(3, np.float32),
    "d": np.linspace(0, 2, 5),
    "empty": np.zeros((0, 2), np.float32),
}


def encode(session: Session) -> bytes:
    frozen = encode_snapshot(session, SPEC_TEXT)
    pieces: list[bytes] = []
    snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), frozen.tensors, frozen.metadata)
    return b"".join(pieces)


def decode(data: bytes) -> Session:
    return decode_snapshot(snapshot.read_snapshot(memoryview(data)), SPEC_TEXT, "again", BACKEND)


def gradient(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(v.shape).astype(v.dtype) for name, v in VALUES.items()}


def goes_on(session: Session) -> None:
    """The session and its copy take the same steps to the same bits."""
    other = decode(encode(session))
    assert encode(other) == encode(session)
    other.changed_at = session.changed_at
    for seed in (11, 12, 13):
        assert step(other, gradient(seed)) == step(session, gradient(seed))
    assert encode(other) == encode(session)


@pytest.mark.parametrize("rule", REGISTRY.values(), ids=lambda rule: rule.name)
def test_every_rule_goes_on(rule: type[Rule]) -> None:
    session = session_of(spec_of(rule()), VALUES)
    goes_on(session)
    for seed in range(3):
        step(session, gradient(seed))
    goes_on(session)


def test_everything_around_the_rule_goes_on() -> None:
    spec = spec_of(
        Adam(),
        gradient=GradientSpec(accumulation_steps=2, l2=0.1, non_finite=NonFinitePolicy.SKIP),
        weight_average=WeightAverageSpec(decay=0.9),
        groups=(
            ParameterGroup(
                name="slow", tensors=("b", "d"), learning_rate_factor=0.1, optimizer=Chosen(Momentum())
            ),
        ),
        reduce_on_plateau=ReduceOnPlateauSpec(monitor="loss", patience=1),
        early_stopping=EarlyStoppingSpec(monitor="loss", patience=100, restore_best=True),
    )
    session = session_of(spec, VALUES)
    for seed, loss in enumerate([3.0, 2.0, 2.5, 2.5, float("nan")]):
        step(session, gradient(seed), worker="a", sequence=seed + 1, loss_scale=2.0)
        session.report_metrics({"loss": loss})
        goes_on(session)
    assert (session.step, session.skipped) != (0, 0)
    assert session.monitors.learning_rate_factor < 1


def test_answered_steps_stay_answered() -> None:
    session = session_of(spec_of(Adam()), VALUES)
    first = step(session, gradient(1), worker="a", sequence=1, per_tensor_norms=True)
    other = decode(encode(session))
    again = step(other, gradient(1), worker="a", sequence=1, per_tensor_norms=True)
    assert again == dataclasses.replace(first, replayed=True)
    assert parameters(other)["w"].tobytes() == parameters(session)["w"].tobytes()


def test_a_session_that_waits_for_parameters() -> None:
    session = session_of(spec_of(Adam()), VALUES)
    session.waiting = {"w", "b"}
    other = decode(encode(session))
    assert (other.pending_tensors, other.ready) == (["b", "w"], False)


FACTS = json.loads(
    snapshot.read_snapshot(memoryview(encode(session_of(spec_of(Adam()), VALUES)))).metadata["optserve"]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FACTS)), JUNK, st.booleans())
def test_facts_that_somebody_made_up(name: str, junk: object, missing: bool) -> None:
    """Files that are imported have right checksums and anything in them."""
    session = session_of(spec_of(Adam()), VALUES)
    frozen = encode_snapshot(session, SPEC_TEXT)
    facts = {**FACTS, name: junk}
    if missing:
        del facts[name]
    pieces: list[bytes] = []
    metadata = {**frozen.metadata, "optserve": json.dumps(facts)}
    snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), frozen.tensors, metadata)
    try:
        other = decode(b"".join(pieces))
    except DamagedError:
        return
    if other.ready:  # a parameter's name among the pending ones makes a session that waits for it
        step(other, gradient(1))
