"""Steps over a real socket: unary and streamed, whole and in part, once each."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import ml_dtypes
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from optserve.v1.optimizer_spec_pb2 import NESTEROV_FORM_LOOKAHEAD
from optserve.v1.session_pb2 import (
    NON_FINITE_POLICY_SKIP,
    PARAMETER_POINT_AVERAGE,
    PARAMETER_POINT_LOOKAHEAD,
    SessionSpec,
)
from tests.integration.client import (
    DTYPES,
    Client,
    Refusal,
    array,
    expect_refusal,
    plan_message,
    sgd,
    step_messages,
    unpack,
)

VALUES: dict[str, np.ndarray] = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float64)}
GRADIENTS: dict[str, np.ndarray] = {"w": np.full((2, 3), 2, np.float32), "b": np.full(2, 4.0)}
WHOLE = GRADIENTS["b"].tobytes() + GRADIENTS["w"].tobytes()


def test_a_unary_step_answers_with_result_and_parameters(client: Client) -> None:
    session = client.create(VALUES)
    answer = client.step(session.name, GRADIENTS, pull=pb.PullOptions(), per_tensor_norms=True)
    result = answer.result
    assert (result.step, result.outcome, result.learning_rate) == (1, pb.STEP_OUTCOME_APPLIED, 0.5)
    assert result.gradient_norm == pytest.approx((6 * 4 + 2 * 16) ** 0.5)
    assert {norm.name: norm.norm for norm in result.tensor_norms} == pytest.approx(
        {"w": 24**0.5, "b": 32**0.5}
    )
    assert (answer.parameters_step, [p.name for p in answer.parameters]) == (1, ["b", "w"])
    assert client.pull(session.name)["w"].tolist() == [[-1, -1, -1], [-1, -1, -1]]


def test_a_stream_takes_pipelined_steps_in_order(client: Client) -> None:
    session = client.create(VALUES)

    def messages() -> Iterator[pb.StepStreamRequest]:
        for index in range(20):
            yield from step_messages(WHOLE, chunk=7, sequence=index + 1)

    answers = client.stream(pb.StepPlan(session=session.name, worker="a"), messages())
    assert [answer.result.step for answer in answers] == list(range(1, 21))
    assert client.pull(session.name)["b"].tolist() == [-40, -40]


def test_the_beginning_of_a_step_may_carry_the_first_chunk(client: Client) -> None:
    session = client.create(VALUES)
    start, chunk = pb.StepStart(byte_count=len(WHOLE)), tensor_pb2.Chunk(data=WHOLE)
    answers = client.stream(session.name, [pb.StepStreamRequest(step=start, chunk=chunk)])
    assert [answer.result.step for answer in answers] == [1]


def test_a_large_step_comes_back_in_chunks(client: Client) -> None:
    size = 700_000
    session = client.create({"w": np.zeros(size, np.float32)})
    gradient = np.arange(size, dtype=np.float32)
    plan = plan_message(session.name, pull=pb.PullOptions())
    first, *answers = client.exchange([plan, *step_messages(gradient.tobytes())])
    assert [len(answer.chunk.data) for answer in answers] == [1 << 20, 1 << 20, size * 4 - (2 << 20)]
    assert [answer.HasField("result") for answer in answers] == [True, False, False]
    values = unpack(first.planned.parameters.tensors, b"".join(answer.chunk.data for answer in answers))
    assert np.array_equal(values["w"], gradient * np.float32(-0.5))


def test_unary_and_streamed_steps_agree_to_the_bit(client: Client) -> None:
    spec = SessionSpec()
    spec.optimizer.adam.SetInParent()
    gradient = np.random.default_rng(3).normal(size=(30, 7)).astype(np.float32)
    one, other = (client.create({"w": np.ones((30, 7), np.float32)}, spec) for _ in range(2))
    for _ in range(3):
        client.step(one.name, {"w": gradient})
        client.stream(other.name, step_messages(gradient.tobytes()))
    assert client.pull(one.name)["w"].tobytes() == client.pull(other.name)["w"].tobytes()


def test_a_step_may_leave_tensors_out(client: Client) -> None:
    session = client.create(VALUES)
    client.step(session.name, {"b": GRADIENTS["b"]})
    client.stream(pb.StepPlan(session=session.name, tensors=["b"]), step_messages(GRADIENTS["b"].tobytes()))
    pulled = client.pull(session.name)
    assert (pulled["w"].tolist(), pulled["b"].tolist()) == (VALUES["w"].tolist(), [-4, -4])


def test_a_step_on_nothing_needs_no_chunk(client: Client) -> None:
    session = client.create({"empty": np.zeros((0, 3), np.float32)})
    answers = client.stream(session.name, step_messages(b""))
    assert [answer.result.step for answer in answers] == [1]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_gradients_and_parameters_travel_in_any_float(client: Client, dtype: type) -> None:
    number = {d: n for n, d in DTYPES.items()}[np.dtype(dtype)]
    session = client.create(VALUES)
    sent = np.array([4, 4, 2, 2, 2, 2, 2, 2], dtype)
    plan = pb.StepPlan(session=session.name, gradient_dtype=number)
    client.stream(plan, step_messages(sent.tobytes()))
    client.step(session.name, {"w": sent[2:].reshape(2, 3), "b": sent[:2]})
    pulled = client.pull(session.name, wire_dtype=number)
    assert {a.dtype for a in pulled.values()} == {np.dtype(dtype)}
    assert (pulled["w"].astype(float) == -2).all()
    assert (pulled["b"].astype(float) == -4).all()


def test_a_pull_of_some_tensors_only_if_newer(client: Client) -> None:
    session = client.create(VALUES)
    client.step(session.name, GRADIENTS)
    assert list(client.pull(session.name, tensors=["b"])) == ["b"]
    request = pb.PullParametersRequest(name=session.name, if_newer_than_step=0)
    (whole,) = client.sessions.PullParameters(request)
    assert (whole.header.not_modified, len(whole.chunk.data)) == (False, 40)
    request.if_newer_than_step = 1
    (only,) = client.sessions.PullParameters(request)
    assert (only.header.not_modified, only.header.step, only.header.byte_count) == (True, 1, 0)


def test_points(client: Client) -> None:
    spec = SessionSpec()
    spec.optimizer.nesterov.learning_rate = 0.5
    spec.optimizer.nesterov.momentum = 0.5
    spec.optimizer.nesterov.form = NESTEROV_FORM_LOOKAHEAD
    spec.weight_average.decay = 0.5
    session = client.create({"w": np.zeros(1)}, spec)
    for _ in range(2):
        client.step(session.name, {"w": np.ones(1)})
    # v = -0.5, then -0.75; p = -0.5, then -1.25; p + mu*v = -1.625; average (-0.5 - 1.25)/2.
    assert client.pull(session.name)["w"] == -1.25
    assert client.pull(session.name, point=PARAMETER_POINT_LOOKAHEAD)["w"] == -1.625
    assert client.pull(session.name, point=PARAMETER_POINT_AVERAGE)["w"] == -0.875


def test_a_step_is_taken_once(client: Client) -> None:
    session = client.create(VALUES)
    first = client.step(session.name, GRADIENTS, worker="a", sequence=1)
    again = client.step(session.name, GRADIENTS, worker="a", sequence=1)
    assert (first.result.replayed, again.result.replayed) == (False, True)
    again.result.replayed = False
    assert again == first
    assert client.get(session.name).step == 1


def test_a_validated_step_changes_nothing(client: Client) -> None:
    session = client.create(VALUES)
    result = client.step(session.name, GRADIENTS, validate_only=True).result
    assert result.outcome == pb.STEP_OUTCOME_VALIDATED
    assert result.gradient_norm == pytest.approx(56**0.5)
    assert client.get(session.name) == session


@pytest.mark.parametrize("streamed", [False, True])
def test_a_validated_step_sends_the_parameters_as_they_are(client: Client, streamed: bool) -> None:
    """The measurements are the step's own; step, rate and parameters are the session's before it."""
    spec = sgd()
    spec.gradient.l2 = 1.0
    session = client.create(VALUES, spec)
    client.step(session.name, GRADIENTS)
    now, options = client.pull(session.name), {"pull": pb.PullOptions(), "validate_only": True}
    for worker, sequence in (("", 0), ("a", 1)):
        if streamed:
            plan = plan_message(session.name, pull=pb.PullOptions(), worker=worker)
            steps = step_messages(WHOLE, chunk=7, sequence=sequence, validate_only=True)
            first, *answers = client.exchange([plan, *steps])
            result, step = answers[0].result, answers[0].parameters_step
            data = b"".join(answer.chunk.data for answer in answers)
            values = unpack(first.planned.parameters.tensors, data)
        else:
            answer = client.step(session.name, GRADIENTS, **options, worker=worker, sequence=sequence)
            result, step = answer.result, answer.parameters_step
            values = {p.name: array(p.tensor) for p in answer.parameters}
        assert (result.outcome, result.step, result.learning_rate) == (pb.STEP_OUTCOME_VALIDATED, 1, 0)
        assert (result.gradient_norm, result.regularization_penalty) == pytest.approx((14**0.5, 7.0))
        assert step == 1
        assert {name: value.tolist() for name, value in values.items()} == {
            name: value.tolist() for name, value in now.items()
        }
    taken = client.step(session.name, GRADIENTS, worker="a", sequence=1).result
    assert (taken.outcome, taken.step, taken.replayed) == (pb.STEP_OUTCOME_APPLIED, 2, False)
    stored = client.step(session.name, GRADIENTS, worker="a", sequence=1, validate_only=True).result
    assert (stored.outcome, stored.step, stored.replayed) == (pb.STEP_OUTCOME_APPLIED, 2, True)


def test_a_validated_step_is_refused_as_the_step_would_be(client: Client) -> None:
    session = client.create(VALUES)
    for gradients, options, reason in (
        ({"b": np.array([1.0, np.nan])}, {}, "NON_FINITE_GRADIENT"),
        (GRADIENTS, {"expected_step": 4}, "STEP_MISMATCH"),
        (GRADIENTS, {"worker": "a", "sequence": 2}, "SEQUENCE_GAP"),
    ):
        with expect_refusal() as told:
            client.step(session.name, gradients, validate_only=True, **options)
        assert told.reason == reason
    assert client.get(session.name) == session


def test_skipped_and_accumulated_steps_are_counted(client: Client) -> None:
    spec = sgd()
    spec.gradient.accumulation_steps = 2
    spec.gradient.non_finite = NON_FINITE_POLICY_SKIP
    session = client.create({"w": np.zeros(1)}, spec)
    outcomes = [client.step(session.name, {"w": np.array([g])}).result.outcome for g in (1.0, np.nan, 3.0)]
    assert outcomes == [pb.STEP_OUTCOME_ACCUMULATED, pb.STEP_OUTCOME_SKIPPED, pb.STEP_OUTCOME_APPLIED]
    now = client.get(session.name)
    assert (now.step, now.skipped, now.accumulated) == (1, 1, 0)
    assert client.pull(session.name)["w"] == -1


def test_the_first_error_ends_the_stream_and_keeps_what_was_answered(client: Client) -> None:
    session = client.create(VALUES)
    good, bad = list(step_messages(WHOLE)), step_messages(WHOLE, expected_step=9)
    messages = [plan_message(session.name), *good, *bad, *good]
    steps: list[int] = []
    with expect_refusal() as told:
        steps.extend(answer.result.step for answer in client.sessions.StepStream(iter(messages), timeout=20))
    _expect(told, grpc.StatusCode.ABORTED, "STEP_MISMATCH", "step.expected_step")
    assert steps == [0, 1], "the answer to the plan, and the first step's"
    assert client.get(session.name).step == 1


def _expect(told: Refusal, code: grpc.StatusCode, reason: str, field: str) -> None:
    assert (told.code, told.reason, told.fields) == (code, reason, [field])
