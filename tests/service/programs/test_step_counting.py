"""Which steps a rule counts for tensors that have no gradient in some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.snapshot_codec import decode_snapshot, encode_snapshot
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adam import Adam
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.override import Override
from optserve_server.spec.session_spec import ParameterGroup, StepCounting
from optserve_server.storage.snapshot import Contents
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.service.sessions.support import parameters, session_of, spec_of, step

Arrays = Mapping[str, npt.NDArray[Any]]
START = {name: np.array([1.0, -2.0]) for name in "abcd"}
SEEN: Sequence[str] = ("abcd", "ad", "b", "abcd", "acd", "bd")
"""Names of the tensors that have gradients, step by step."""


def gradient(number: int, name: str) -> npt.NDArray[np.float64]:
    return np.array([0.25 * (number + 1), -0.5]) * (1 + "abcd".index(name))


def adam(start: npt.NDArray[np.float64], gradients: Sequence[npt.NDArray[np.float64]]) -> Any:
    """PyTorch's Adam on one tensor, which counts the gradients that it gets, written out in float64."""
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def torch_adam() -> Adam:
    from optserve_server.hyperparameters import Convention

    rule: Adam = Adam.resolve({}, Convention.TORCH)
    return rule


def run(session: Session, numbers: range) -> None:
    for number in numbers:
        step(session, {name: gradient(number, name) for name in SEEN[number]})


def make(counting: StepCounting, backend: Any = NumpyBackend, rule: Any = None) -> Session:
    spec = spec_of(rule or torch_adam(), step_counting=counting)
    return session_of(spec, START, Store(backend()))


@pytest.mark.parametrize("backend", [NumpyBackend, NumbaBackend])
def test_a_tensor_without_gradients_does_not_age(backend: Any) -> None:
    session = make(StepCounting.PER_TENSOR, backend)
    run(session, range(len(SEEN)))
    for name, value in parameters(session).items():
        mine = [gradient(number, name) for number, names in enumerate(SEEN) if name in names]
        np.testing.assert_allclose(value, adam(START[name], mine), rtol=1e-14)


def test_a_session_counts_every_step_for_all_of_its_tensors() -> None:
    session = make(StepCounting.PER_SESSION)
    run(session, range(2))
    p, m, v = START["b"].copy(), np.zeros(2), np.zeros(2)
    step(session, {"b": gradient(2, "b")})
    for t, g in ((1, gradient(0, "b")), (3, gradient(2, "b"))):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(parameters(session)["b"], p, rtol=1e-14)


def test_a_count_that_matters_only_to_an_override_is_kept_from_the_first_step() -> None:
    session = make(
        StepCounting.PER_TENSOR, rule=Adagrad(learning_rate=0.5, epsilon=0.0, initial_accumulator=0.0)
    )
    run(session, range(2))
    step(session, {"b": gradient(2, "b")}, overrides=(Override(None, "learning_rate_decay", 1.0),))
    first, second = gradient(0, "b"), gradient(2, "b")
    # The third step of the session is the second of the tensor: its rate is divided by 1 + 1.
    after = START["b"] - 0.5 * first / np.abs(first)
    after -= 0.5 / 2 * second / np.sqrt(first**2 + second**2)
    np.testing.assert_allclose(parameters(session)["b"], after, rtol=1e-14)


def test_counts_survive_a_snapshot() -> None:
    session = make(StepCounting.PER_TENSOR)
    run(session, range(3))
    frozen = encode_snapshot(session, SPEC_TEXT, requests=[])
    contents = Contents(frozen.metadata, {tensor.name: tensor.get() for tensor in frozen.tensors})
    other = decode_snapshot(contents, SPEC_TEXT, "other", NumpyBackend())
    for one in (session, other):
        run(one, range(3, len(SEEN)))
    for name, value in parameters(session).items():
        np.testing.assert_array_equal(parameters(other)[name], value)


def test_the_default_group_may_have_no_tensors() -> None:
    groups = tuple(ParameterGroup(name=name, tensors=tuple(name)) for name in ("ab", "cd"))
    spec = spec_of(torch_adam(), step_counting=StepCounting.PER_TENSOR, groups=groups)
    session = session_of(spec, START)
    run(session, range(len(SEEN)))
    for name, value in parameters(session).items():
        mine = [gradient(number, name) for number, names in enumerate(SEEN) if name in names]
        np.testing.assert_allclose(value, adam(START[name], mine), rtol=1e-14)


def test_tensors_that_are_even_again_share_a_clock() -> None:
    session = make(StepCounting.PER_TENSOR)
    step(session, {"a": gradient(0, "a")})
    assert len(session.scalars.counters) == 2
    step(session, {name: gradient(1, name) for name in "bcd"})
    assert len(session.scalars.counters) == 1
