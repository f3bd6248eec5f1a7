"""Plans and the protocol of steps by themselves: what is sent, and what answers and errors mean."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from optserve import Pull, SparseRows, errors
from optserve._codec.layout import Layout, TensorInfo
from optserve._codec.payload import Payload
from optserve._engine.overrides import encode_overrides
from optserve._engine.pending_step import PendingStep
from optserve._engine.plan import REQUESTS, Plan, PlanOptions
from optserve._engine.step_protocol import StepProtocol, Verdict
from optserve._engine.step_result import StepResult
from optserve.enums import StepOutcome
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

LAYOUT = Layout([TensorInfo("b", np.dtype("f8"), (2,)), TensorInfo("w", np.dtype("f4"), (2, 3))])
GRADIENTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -1])}
ENGINE = SimpleNamespace(on_error_raised=lambda error: None)
REUSED = errors.FailedPrecondition("reused", reason=errors.Reason.SEQUENCE_REUSED, applied=False)
REFUSED = errors.InvalidArgument("no", reason=errors.Reason.NON_FINITE_GRADIENT, applied=False)
LOST = errors.Unavailable("lost")


def region_of(name="r" * 64):
    arrays = {name: np.zeros_like(array) for name, array in GRADIENTS.items()}
    return SimpleNamespace(region=name, gradients=arrays, is_open=True)


def plan_of(gradients=GRADIENTS, options=PlanOptions(), region=None, layout=LAYOUT):  # noqa: B008
    payload = Payload.of_gradients(layout, gradients, options.wire_dtype)
    return Plan("sessions/a", layout, options, payload, gradients, region)


def message_of(plan):
    return wire.StepStreamRequest.FromString(plan.encode("me")).plan


def step_of(plan, gradients=GRADIENTS):
    return PendingStep(ENGINE, plan, plan.prepare_gradients(gradients, copy=False))


def take_sent(protocol):
    """Everything that is sent now, decoded: plans, and steps with their gradients."""
    encoded = []
    while protocol.sent < len(protocol.waiting):
        messages, _ = protocol.take_unsent()
        encoded += [b"".join(pieces) for pieces in messages]
    return [wire.StepStreamRequest.FromString(message) for message in encoded]


def result_of(step):
    return StepResult(step, StepOutcome.APPLIED, 0.1, 1.0, 1.0, 0, 0, 0.0, 0, 0, False)


class TestPlan:
    def test_names_nothing_that_is_the_default(self):
        assert message_of(plan_of()) == wire.StepPlan(session="sessions/a", worker="me")

    def test_says_what_steps_have_in_common(self):
        options = PlanOptions(Pull(tensors=["w"]), np.float16, per_tensor_norms=True)
        assert message_of(plan_of({"w": GRADIENTS["w"]}, options)) == wire.StepPlan(
            session="sessions/a",
            worker="me",
            tensors=["w"],
            gradient_dtype=tensor_pb2.DATA_TYPE_FLOAT16,
            pull=wire.PullOptions(tensors=["w"]),
            per_tensor_norms=True,
        )

    def test_of_a_validation_has_no_worker(self):
        assert message_of(plan_of(options=PlanOptions(validate_only=True))).worker == ""

    def test_in_shared_memory_names_it_and_nothing_that_it_fixes(self):
        plan = plan_of({"b": GRADIENTS["b"]}, PlanOptions(wire_dtype="float32"), region_of())
        assert message_of(plan) == wire.StepPlan(session="sessions/a", worker="me", region="r" * 64)

    @pytest.mark.parametrize(
        "other",
        [
            {"w": GRADIENTS["w"]},
            {**GRADIENTS, "w": GRADIENTS["w"].astype(np.float64)},
            {**GRADIENTS, "w": GRADIENTS["w"].T},
            {**GRADIENTS, "b": [1.0, 2.0]},
            {**GRADIENTS, "c": GRADIENTS["b"]},
            {"w": GRADIENTS["w"], "c": GRADIENTS["b"]},
        ],
    )
    def test_leaves_gradients_of_another_kind_to_other_plans(self, other):
        region = region_of()
        for plan in (plan_of(), plan_of(region=region)):
            assert plan.prepare_gradients(GRADIENTS, copy=False) is not None
            assert plan.prepare_gradients(other, copy=False) is None
        np.testing.assert_array_equal(region.gradients["b"], GRADIENTS["b"])

    @pytest.mark.parametrize("copy", [False, True])
    def test_sends_arrays_of_other_types_and_orders_as_what_they_hold(self, copy):
        gradients = {"w": np.asfortranarray(GRADIENTS["w"]), "b": np.arange(4.0)[::-2]}
        plan = plan_of(gradients, PlanOptions(wire_dtype=ml_dtypes.bfloat16))
        step = PendingStep(ENGINE, plan, plan.prepare_gradients(gradients, copy))
        [pieces] = step.messages()
        framed = REQUESTS.decode(b"".join(pieces))
        expected = [gradients[name].astype(ml_dtypes.bfloat16).tobytes() for name in ("b", "w")]
        assert bytes(framed.chunk.data) == b"".join(expected)
        assert framed.message.step.byte_count == 16

    @pytest.mark.parametrize("wire_dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
    def test_of_several_messages_converts_while_they_are_sent(self, wire_dtype):
        """Sent twice, as after a lost connection."""
        shapes = {"a": (300, 1000), "b": (7,), "c": (262_144,), "d": (3, 5, 7), "e": (400_001,)}
        layout = Layout(TensorInfo(name, np.dtype(np.float32), shape) for name, shape in shapes.items())
        rng = np.random.default_rng(0)
        first, second = (
            {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
            for _ in range(2)
        )
        plan = plan_of(first, PlanOptions(wire_dtype=wire_dtype), layout=layout)
        step = PendingStep(ENGINE, plan, plan.prepare_gradients(second, copy=False))
        expected = b"".join(array.astype(wire_dtype).tobytes() for array in second.values())
        for _ in range(2):
            chunks = [REQUESTS.decode(b"".join(pieces)).chunk for pieces in step.messages()]
            assert len(chunks) >= 2
            assert b"".join(bytes(chunk.data) for chunk in chunks) == expected

    def test_refuses_a_session_of_other_tensors(self):
        planned = wire.StepPlanned(gradients=tensor_pb2.ByteLayout(byte_count=41))
        with pytest.raises(errors.FailedPrecondition, match=r"41 bytes.*40"):
            plan_of().accept_plan_response(planned)


class TestStepProtocol:
    def test_sends_a_plan_once_and_a_step_with_its_number_each_time(self):
        protocol, plan = StepProtocol(), plan_of()
        protocol.add_step(step_of(plan))
        opening = wire.StepStreamRequest.FromString(protocol.begin_stream())
        assert opening.plan.worker == protocol.worker
        data = GRADIENTS["b"].tobytes() + GRADIENTS["w"].tobytes()
        for sequence in (1, 2, 3):
            [request] = take_sent(protocol)
            assert request == wire.StepStreamRequest(
                step=wire.StepStart(sequence=sequence, byte_count=40), chunk=tensor_pb2.Chunk(data=data)
            )
            if sequence == 1:
                protocol.accept_plan(wire.StepPlanned(gradients=tensor_pb2.ByteLayout(byte_count=40)))
            protocol.accept_result(result_of(sequence))
            protocol.add_step(step_of(plan))
        assert not protocol.due

    def test_sends_another_plan_between_two_steps_that_differ(self):
        protocol, one, two = StepProtocol(), plan_of(), plan_of(options=PlanOptions(Pull()))
        for plan in (one, two, two, one):
            protocol.add_step(step_of(plan))
        protocol.begin_stream()
        kinds = [("plan" if r.HasField("plan") else r.step.sequence) for r in take_sent(protocol)]
        assert kinds == [1, "plan", 2, 3, "plan", 4]
        assert [isinstance(due, Plan) for due in protocol.due] == [1, 0, 1, 0, 0, 1, 0]

    def test_sends_again_what_was_not_answered_and_begins_with_its_plan(self):
        protocol, one, two = StepProtocol(), plan_of(), plan_of(options=PlanOptions(Pull()))
        for plan in (one, two, two):
            protocol.add_step(step_of(plan))
        protocol.begin_stream()
        take_sent(protocol)
        protocol.accept_plan(wire.StepPlanned(gradients=tensor_pb2.ByteLayout(byte_count=40)))
        protocol.accept_result(result_of(1))
        assert protocol.accept_error(LOST) is Verdict.RETRY
        assert wire.StepStreamRequest.FromString(protocol.begin_stream()).plan.HasField("pull")
        assert [request.step.sequence for request in take_sent(protocol)] == [2, 3]

    def test_gives_the_numbers_of_refused_and_abandoned_steps_to_the_next(self):
        protocol, plan = StepProtocol(), plan_of()
        steps = [step_of(plan) for _ in range(3)]
        for step in steps:
            protocol.add_step(step)
        assert protocol.accept_error(REFUSED) is Verdict.FAILED
        for step, kind in zip(
            steps, [errors.InvalidArgument, errors.Abandoned, errors.Abandoned], strict=True
        ):
            with pytest.raises(kind) as caught:
                step.result_or_raise()
            assert caught.value.applied is False
        protocol.add_step(last := step_of(plan))
        assert last.sequence == 1

    def test_goes_on_behind_a_step_that_was_applied_unseen(self):
        protocol, plan = StepProtocol(), plan_of()
        protocol.add_step(first := step_of(plan))
        protocol.withdraw_step(first)
        steps = [step_of(plan) for _ in range(2)]
        for step in steps:
            protocol.add_step(step)
        assert [step.sequence for step in steps] == [1, 2]
        assert protocol.accept_error(REUSED) is Verdict.SEND_AGAIN
        assert [step.sequence for step in steps] == [2, 3]
        assert protocol.accept_error(REUSED) is Verdict.FAILED, "nothing was left unknown this time"

    def test_a_refusal_leaves_a_lost_step_unknown(self):
        protocol, plan = StepProtocol(), plan_of()
        protocol.add_step(lost := step_of(plan))
        protocol.withdraw_step(lost)
        protocol.add_step(step_of(plan))
        assert protocol.accept_error(REFUSED) is Verdict.FAILED
        protocol.add_step(last := step_of(plan))
        assert protocol.accept_error(REUSED) is Verdict.SEND_AGAIN
        assert last.sequence == 2

    @pytest.mark.parametrize("applied", [None, False])
    def test_an_error_says_whether_the_number_may_be_used_up(self, applied):
        protocol, plan = StepProtocol(), plan_of()
        protocol.add_step(step_of(plan))
        failure = errors.Internal("a defect", reason=errors.Reason.INTERNAL, applied=applied)
        assert protocol.accept_error(failure) is Verdict.FAILED
        protocol.add_step(step_of(plan))
        assert protocol.accept_error(REUSED) is (Verdict.SEND_AGAIN if applied is None else Verdict.FAILED)

    def test_follows_a_server_that_came_back_without_the_last_steps(self):
        protocol, plan = StepProtocol(), plan_of()
        for step in range(3):
            protocol.add_step(step_of(plan))
            protocol.begin_stream() if step == 0 else None
            take_sent(protocol)
            if step == 0:
                protocol.accept_plan(wire.StepPlanned(gradients=tensor_pb2.ByteLayout(byte_count=40)))
            protocol.accept_result(result_of(step))
        protocol.add_step(step_of(plan))
        gap = errors.FailedPrecondition(
            "gap", reason=errors.Reason.SEQUENCE_GAP, metadata={"expected": "2"}, applied=False
        )
        assert protocol.accept_error(gap) is Verdict.FAILED
        protocol.add_step(step := step_of(plan))
        assert step.sequence == 2

    def test_a_gradient_in_shared_memory_keeps_its_id_only_if_it_is_the_same(self):
        protocol, region = StepProtocol(), region_of()
        plan, other = plan_of(region=region), {**GRADIENTS, "b": np.array([7.0, 7])}
        ids = []
        for gradients in (GRADIENTS, other, GRADIENTS, other):
            protocol.add_step(step := step_of(plan, gradients))
            ids.append(step.gradient_id)
            protocol.withdraw_step(step)
        assert ids[0] == ids[2] != ids[1] == ids[3]
        assert 0 not in ids

    def test_a_gradient_that_is_sent_after_all_keeps_its_id(self):
        protocol = StepProtocol()
        protocol.add_step(shared := step_of(plan_of(region=region_of())))
        protocol.withdraw_step(shared)
        protocol.add_step(step := step_of(plan_of()))
        protocol.begin_stream()
        (request,) = list(take_sent(protocol))
        assert step.gradient_id == request.step.gradient_id == shared.gradient_id
        assert request.step.byte_count == 40
        assert not protocol.must_resend_gradient

    def test_a_step_that_was_sent_is_not_repeated_in_shared_memory(self):
        protocol, plan = StepProtocol(), plan_of()
        protocol.add_step(lost := step_of(plan))
        assert not protocol.must_resend_gradient
        protocol.withdraw_step(lost)
        assert protocol.must_resend_gradient

    def test_a_validation_has_no_number(self):
        protocol = StepProtocol()
        protocol.add_step(check := step_of(plan_of(options=PlanOptions(validate_only=True))))
        assert check.sequence == 0
        assert protocol.accept_error(REFUSED) is Verdict.FAILED
        protocol.add_step(step := step_of(plan_of()))
        assert step.sequence == 1

    def test_rows_are_named_by_the_plan_and_given_by_each_step(self):
        gradients = {"b": GRADIENTS["b"], "w": SparseRows([1], np.ones((1, 3), np.float32))}
        payload = Payload.of_gradients(LAYOUT, gradients)
        plan = Plan("sessions/a", LAYOUT, PlanOptions(), payload, gradients, None)
        assert message_of(plan) == wire.StepPlan(
            session="sessions/a", worker="me", tensors=["b"], sparse_tensors=["w"]
        )
        protocol = StepProtocol()
        protocol.add_step(PendingStep(ENGINE, plan, (payload.arrays, ()), payload.rows))
        protocol.begin_stream()
        [request] = take_sent(protocol)
        assert request.step.byte_count == 16 + 12
        [indices] = request.step.row_indices
        assert indices.data == np.array([1], np.int64).tobytes()
        assert request.chunk.data == GRADIENTS["b"].tobytes() + np.ones(3, np.float32).tobytes()


class TestOverrides:
    def test_are_for_every_group_or_for_one(self):
        messages = encode_overrides({"learning_rate": 1, "head": {"beta1": 0.5, "l2": 0}, "": {"l1": 2.0}})
        assert messages == [
            wire.HyperparameterOverride(name="learning_rate", value=1.0),
            wire.HyperparameterOverride(group="head", name="beta1", value=0.5),
            wire.HyperparameterOverride(group="head", name="l2", value=0.0),
            wire.HyperparameterOverride(group="", name="l1", value=2.0),
        ]
        assert not messages[0].HasField("group")

    @pytest.mark.parametrize("value", ["fast", None, [1.0]])
    def test_are_numbers(self, value):
        with pytest.raises(TypeError, match=r"overrides\['a'\]\['b'\]"):
            encode_overrides({"a": {"b": value}})
