"""Steps of a handle, which keeps a stream open for them."""

from __future__ import annotations

import numpy as np
import pytest

import optserve
from optserve import Pull, SparseRows, StepOutcome, errors, optimizers
from optserve._engine.plan import Plan
from tests.integration.python_client.conftest import ONE, call_of


def test_steps_go_over_one_channel(way, session):
    assert session.step(ONE).step == 1
    channel = call_of(session)
    assert isinstance(channel, way)
    for step in range(2, 6):
        assert session.step(ONE, pull=True).step == step
    assert call_of(session) is channel


def test_steps_that_differ_take_turns(way, client):
    """Each of these has a plan of its own; values are held against a sum beside it."""
    start = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}
    session = client.create_session(start, optimizers.SGD(learning_rate=1.0))
    expected = {name: array.copy() for name, array in start.items()}
    whole = {"w": np.ones((2, 3), np.float32), "b": np.ones(2)}
    for turn in range(3):
        for gradients, options in [
            (whole, {}),
            (whole, {"pull": True}),
            ({"b": whole["b"]}, {"pull": Pull(tensors=["b"])}),
            (whole, {"pull": True, "wire_dtype": "bfloat16"}),
            (whole, {"per_tensor_norms": True}),
            ({"w": SparseRows([1], np.ones((1, 3), np.float32)), "b": whole["b"]}, {"pull": True}),
        ]:
            result = session.step(gradients, **options)
            for name, given in gradients.items():
                expected[name][[1] if isinstance(given, SparseRows) else ...] -= 1
            for name, array in result.parameters.items():
                np.testing.assert_array_equal(array.astype(float), expected[name], err_msg=str(turn))
            pulled = {"b"} if isinstance(options.get("pull"), Pull) else {"w", "b"}
            assert set(result.parameters) == (pulled if "pull" in options else set())
            assert set(result.tensor_norms) == ({"w", "b"} if "per_tensor_norms" in options else set())
    for name, array in session.pull().items():
        np.testing.assert_array_equal(array, expected[name])
    session.delete()


@pytest.mark.parametrize(
    "gradients",
    [
        {"w": [1.0, 1.0, 1.0]},
        {"b": SparseRows([1], np.ones((1, 2)))},
        {"b": SparseRows([0, 1], np.ones((2, 2))), "w": np.ones(3)},
    ],
    ids=["lists", "rows", "rows and arrays"],
)
def test_a_plan_is_sent_once_whatever_gradients_are_made_of(way, session, gradients, monkeypatch):
    plans = []
    encode = Plan.encode
    monkeypatch.setattr(Plan, "encode", lambda plan, *sender: plans.append(plan) or encode(plan, *sender))
    for step in range(1, 6):
        assert session.step(gradients, pull=True).step == step
    assert len(plans) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_parameters_are_written_into_the_caller_s_arrays(server, session, shared):
    with optserve.connect(server.address, timeout=20, shared_memory=shared) as client:
        handle = client.session(session.name)
        into = {"w": np.full(3, 9.0), "b": np.zeros((2, 2), np.float32)}
        for step in (1, 2, 3):
            result = handle.step(ONE, pull=True, into=into)
            assert result.parameters["w"] is into["w"]
            np.testing.assert_array_equal(into["w"], np.arange(3.0) - step)
            np.testing.assert_array_equal(into["b"], np.ones((2, 2)))
        with pytest.raises(ValueError, match="set pull"):
            handle.step(ONE, into=into)
        with pytest.raises(ValueError, match="no array for tensor 'b'"):
            handle.step(ONE, pull=True, into={"w": into["w"]})
    assert session.get().step == 3


def test_a_validation_takes_no_step_and_no_number(way, session):
    assert session.step(ONE).sequence == 1
    checked = session.step(ONE, validate_only=True)
    assert (checked.outcome, checked.step, checked.sequence) == (StepOutcome.VALIDATED, 1, 0)
    with pytest.raises(errors.InvalidArgument) as caught:
        session.step({"w": np.full(3, np.nan)}, validate_only=True)
    assert caught.value.applied is False
    result = session.step(ONE)
    assert (result.step, result.sequence) == (2, 2)


def test_results_and_events_name_worker_and_sequence(session):
    events = session.watch()
    next(events)
    first, second = session.step(ONE), session.step(ONE)
    assert (first.worker, first.sequence, second.sequence) == (second.worker, 1, 2)
    seen = [next(events).what for _ in range(2)]
    assert [(event.worker, event.sequence) for event in seen] == [(first.worker, 1), (first.worker, 2)]
    events.close()


@pytest.mark.parametrize("by", ["handle", "step", "submit"])
def test_overrides_hold_for_one_step(way, client, by):
    groups = [optserve.ParameterGroup("head", tensors=["b"])]
    start = {"w": np.zeros(1), "b": np.zeros(1)}
    session = client.create_session(start, optimizers.SGD(learning_rate=1.0), groups=groups)
    gradient = {"w": np.ones(1), "b": np.ones(1)}
    with session.stream() as stream:

        def take(overrides=None):
            if by == "submit":
                return stream.submit(gradient, overrides=overrides).result()
            return (session if by == "handle" else stream).step(gradient, overrides=overrides)

        assert take({"learning_rate": 0.5}).step == 1
        assert take({"head": {"learning_rate": 0.25}}).step == 2
        assert take().step == 3
        with pytest.raises(errors.InvalidArgument) as caught:
            take({"learning_rate": -1.0})
        assert caught.value.applied is False
    values = session.pull()
    np.testing.assert_array_equal([values["w"][0], values["b"][0]], [-2.5, -1.75])
    session.delete()


def test_a_deleted_session_is_not_found_by_its_handle(way, client):
    session = client.create_session({"w": np.zeros(3)}, optimizers.SGD())
    session.step(ONE)
    session.delete()
    with pytest.raises(errors.NotFound) as caught:
        session.step(ONE)
    assert caught.value.applied is False
