"""Training through the client: one step at a time, and pipelined."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import optserve
from optserve import StepOutcome, optimizers

RNG = np.random.default_rng(7)
X = RNG.normal(size=(64, 4))
TRUE = np.array([1.0, -2.0, 0.5, 3.0])
Y = X @ TRUE + 0.25


def gradients(parameters):
    error = X @ parameters["w"] + parameters["c"] - Y
    return {"w": 2 * X.T @ error / len(X), "c": np.asarray(2 * error.mean())}


@pytest.fixture
def new_session(client):
    made = []

    def make(**options):
        initial = {"w": np.zeros(4), "c": np.zeros(())}
        made.append(client.create_session(initial, optimizers.Adam(learning_rate=0.1), **options))
        return made[-1]

    yield make
    for session in made:
        session.delete()


def test_least_squares_converges_by_unary_steps(new_session):
    session = new_session()
    parameters = session.pull()
    for _ in range(300):
        parameters = session.step(gradients(parameters), pull=True).parameters
    np.testing.assert_allclose(parameters["w"], TRUE, atol=1e-3)
    np.testing.assert_allclose(parameters["c"], 0.25, atol=1e-3)
    assert session.step_number == 300
    assert parameters.step == 300


def test_a_stream_does_the_same_bit_for_bit(way, new_session):
    one, many = new_session(), new_session()
    a, b = one.pull(), many.pull()
    with many.stream(pull=True) as stream:
        for _ in range(50):
            a = one.step(gradients(a), pull=True).parameters
            b = stream.step(gradients(b)).parameters
    assert a["w"].tobytes() == b["w"].tobytes()
    assert a["c"].tobytes() == b["c"].tobytes()


def test_pipelined_steps_are_applied_in_order(new_session):
    one, many = new_session(), new_session()
    sent = [{"w": RNG.normal(size=4), "c": RNG.normal(size=())} for _ in range(30)]
    for gradient in sent:
        one.step(gradient)
    with many.stream(window=5) as stream:
        results = list(stream.steps(sent))
    assert [result.step for result in results] == list(range(1, 31))
    assert one.pull()["w"].tobytes() == many.pull()["w"].tobytes()


def test_what_is_submitted_is_applied_when_the_block_ends(new_session):
    session = new_session()
    with session.stream(window=3) as stream:
        pending = [stream.submit({"w": np.ones(4), "c": np.ones(())}) for _ in range(10)]
    assert session.get().step == 10
    assert all(step.done() for step in pending)
    assert [step.result().step for step in pending] == list(range(1, 11))


def test_gradients_may_be_overwritten_once_submitted(session):
    buffer = np.ones(3)
    with session.stream() as stream:
        for _ in range(4):
            stream.submit({"w": buffer})
            buffer[:] = np.nan
            buffer[:] = 1.0
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - 4)


def test_two_handles_step_one_session(client, session):
    other = client.session(session.name)
    session.step({"w": np.ones(3)})
    assert other.step({"w": np.ones(3)}).step == 2
    assert session.step({"w": np.ones(3)}).step == 3


def test_a_subset_of_gradients_moves_nothing_else(session):
    before = session.pull()
    after = session.step({"b": np.full((2, 2), 0.5)}, pull=True).parameters
    np.testing.assert_array_equal(after["b"], np.full((2, 2), 0.5, np.float32))
    assert after["w"].tobytes() == before["w"].tobytes()


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64", ">f4"])
def test_every_gradient_type_is_taken(session, dtype):
    result = session.step({"w": np.array([0.5, 1, -2]).astype(dtype)}, pull=True)
    np.testing.assert_array_equal(result.parameters["w"], [-0.5, 0, 4])


def test_arrays_need_not_be_contiguous(session):
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    after = session.step({"b": matrix.T, "w": np.arange(6.0)[::2]}, pull=True).parameters
    np.testing.assert_array_equal(after["b"], 1 - matrix.T)
    np.testing.assert_array_equal(after["w"], [0, -1, -2])


def test_a_stream_mixes_types_without_changing_a_value(way, session):
    with session.stream(pull=True) as stream:
        after = stream.step({"w": np.full(3, 1 + 2**-40), "b": np.full((2, 2), 0.5, np.float16)}).parameters
    np.testing.assert_array_equal(after["w"], np.arange(3.0) - (1 + 2**-40))
    np.testing.assert_array_equal(after["b"], np.full((2, 2), 0.5))


def test_the_wire_type_is_the_callers_choice(session):
    third = np.full(3, 1 / 3)
    with session.stream(pull=True, wire_dtype="bfloat16") as stream:
        after = stream.step({"w": third}).parameters
    assert after["w"].dtype == ml_dtypes.bfloat16
    sent = third.astype(ml_dtypes.bfloat16).astype(float)
    np.testing.assert_array_equal(session.pull()["w"], np.arange(3.0) - sent)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_result_tells_what_was_done(session, streamed):
    gradient = {"w": np.array([3.0, 0, 0]), "b": np.full((2, 2), 2.0)}
    options = {"expected_step": 0, "loss_scale": 2.0, "per_tensor_norms": True}
    if streamed:
        with session.stream() as stream:
            result = stream.step(gradient, **options)
    else:
        result = session.step(gradient, **options)
    assert result.outcome is StepOutcome.APPLIED
    assert result.learning_rate == 1.0
    assert result.gradient_norm == pytest.approx(2.5)
    assert result.tensor_norms == pytest.approx({"w": 1.5, "b": 2.0})
    assert not result.replayed
    assert result.parameters == {}


def test_validation_changes_nothing_and_uses_up_no_number(session):
    result = session.step({"w": np.ones(3)}, validate_only=True)
    assert result.outcome is StepOutcome.VALIDATED
    assert session.get().step == 0
    assert session.step({"w": np.ones(3)}).step == 1


def test_accumulated_and_skipped_steps_are_told(client):
    gradient = optserve.Gradient(accumulation_steps=2, non_finite=optserve.NonFinitePolicy.SKIP)
    session = client.create_session({"w": np.zeros(2)}, optimizers.SGD(learning_rate=1.0), gradient=gradient)
    outcomes = [session.step({"w": np.array(g)}).outcome for g in ([1.0, 3], [np.inf, 0], [3.0, 1])]
    assert outcomes == [StepOutcome.ACCUMULATED, StepOutcome.SKIPPED, StepOutcome.APPLIED]
    np.testing.assert_array_equal(session.pull()["w"], [-2, -2])
    assert session.get().skipped == 1
    session.delete()
