"""What a step's content is: which fields tell a repeated step from another one of the same sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2
from tests.integration.client import (
    NUMBERS,
    Array,
    Client,
    expect_refusal,
    name_arrays,
    plan_message,
    rows,
    tensor,
)

VALUES = {
    "a": np.zeros((2, 2), np.float32),
    "b": np.zeros((2, 2), np.float32),
    "t": np.zeros((4, 1), np.float32),
}
Rows = tuple[Array, Array]


@dataclass
class Sent:
    """A step, to be sent in one message or over a stream."""

    gradients: dict[str, Array]
    sparse: dict[str, Rows] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    gradient_id: int = 0
    chunk: int = 1 << 20

    def unary(self, client: Client, name: str) -> pb.StepResult:
        request = pb.StepRequest(
            name=name,
            options=pb.StepOptions(worker="w", sequence=1, **self.options, **self.plan),
            gradients=name_arrays(self.gradients),
            sparse_gradients=[rows(key, *given) for key, given in self.sparse.items()],
        )
        return client.sessions.Step(request, timeout=20).result

    def stream(self, client: Client, name: str) -> pb.StepResult:
        dtype = next(iter([*self.gradients.values(), *(values for _, values in self.sparse.values())])).dtype
        plan = plan_message(
            name, worker="w", gradient_dtype=NUMBERS[dtype], sparse_tensors=list(self.sparse),
            tensors=sorted(self.gradients), **self.plan,
        )  # fmt: skip
        data = b"".join(self.gradients[key].tobytes() for key in sorted(self.gradients))
        data += b"".join(values.tobytes() for _, values in self.sparse.values())
        start = pb.StepStart(
            sequence=1, byte_count=len(data), gradient_id=self.gradient_id, **self.options,
            row_indices=[tensor(indices) for indices, _ in self.sparse.values()],
        )  # fmt: skip
        chunks = [
            pb.StepStreamRequest(chunk=tensor_pb2.Chunk(byte_offset=at, data=data[at : at + self.chunk]))
            for at in range(0, len(data), self.chunk)
        ]
        answers = client.exchange([plan, pb.StepStreamRequest(step=start), *chunks])
        return answers[1].result


A, B = np.full((2, 2), 2, np.float32), np.full((2, 2), 4, np.float32)
WHOLE = Sent({"a": A, "b": B}, options={"expected_step": 0, "loss_scale": 2.0})
TABLE = (np.array([1, 3], np.int32), np.array([[2], [4]], np.float32))
SPARSE = Sent({}, {"t": TABLE})
RATE = pb.HyperparameterOverride(name="learning_rate", value=0.125)


def whole(**fields: Any) -> Sent:
    return Sent(**{**WHOLE.__dict__, **fields})


OTHERS: Mapping[str, tuple[Sent, Sent]] = {
    "another value": (WHOLE, whole(gradients={"a": A, "b": B + 1})),
    "values of a and b exchanged": (WHOLE, whole(gradients={"a": B, "b": A})),
    "another tensor": (whole(gradients={"a": A}), whole(gradients={"b": A})),
    "fewer tensors": (WHOLE, whole(gradients={"a": A})),
    "another element type": (WHOLE, whole(gradients={"a": A.astype(np.float64), "b": B.astype(np.float64)})),
    "the same bytes as another type": (
        whole(gradients={"a": A.astype(np.float16), "b": B.astype(np.float16)}),
        whole(
            gradients={
                "a": A.astype(np.float16).view(ml_dtypes.bfloat16),
                "b": B.astype(np.float16).view(ml_dtypes.bfloat16),
            }
        ),
    ),
    "no expected_step": (WHOLE, whole(options={"loss_scale": 2.0})),
    "another expected_step": (WHOLE, whole(options={"expected_step": 1, "loss_scale": 2.0})),
    "another loss_scale": (WHOLE, whole(options={"expected_step": 0, "loss_scale": 4.0})),
    "no loss_scale": (WHOLE, whole(options={"expected_step": 0})),
    "an override": (WHOLE, whole(options={**WHOLE.options, "overrides": [RATE]})),
    "another override": (
        whole(options={"overrides": [RATE]}),
        whole(options={"overrides": [pb.HyperparameterOverride(name="learning_rate", value=0.25)]}),
    ),
    "an override of the default group alone": (
        whole(options={"overrides": [RATE]}),
        whole(
            options={"overrides": [pb.HyperparameterOverride(name="learning_rate", value=0.125, group="")]}
        ),
    ),
    "another row": (SPARSE, Sent({}, {"t": (np.array([1, 2], np.int32), TABLE[1])})),
    "the same rows in another order": (
        SPARSE,
        Sent({}, {"t": (TABLE[0][::-1].copy(), TABLE[1][::-1].copy())}),
    ),
    "row indices of another type": (SPARSE, Sent({}, {"t": (TABLE[0].astype(np.int64), TABLE[1])})),
    "another value of a row": (SPARSE, Sent({}, {"t": (TABLE[0], TABLE[1] + 1)})),
    "every row, complete": (
        Sent({}, {"t": (np.arange(4, dtype=np.int32), np.ones((4, 1), np.float32))}),
        Sent({"t": np.ones((4, 1), np.float32)}),
    ),
}
"""Pairs of steps whose contents differ."""

ALIKE: Mapping[str, tuple[Sent, Sent]] = {
    "itself": (WHOLE, WHOLE),
    "rows themselves": (SPARSE, SPARSE),
    "a pull": (WHOLE, whole(plan={"pull": pb.PullOptions()})),
    "another pull": (
        whole(plan={"pull": pb.PullOptions()}),
        whole(plan={"pull": pb.PullOptions(tensors=["t"], wire_dtype=tensor_pb2.DATA_TYPE_FLOAT16)}),
    ),
    "norms": (WHOLE, whole(plan={"per_tensor_norms": True})),
    "a loss_scale of 1": (whole(options={}), whole(options={"loss_scale": 1.0})),
    "tensors in another order": (WHOLE, whole(gradients={"b": B, "a": A})),
    "other chunks": (WHOLE, whole(chunk=3)),
    "other chunks of rows": (SPARSE, Sent({}, {"t": TABLE}, chunk=3)),
}
"""Pairs of steps whose contents are the same."""

Send = Callable[[Sent, Client, str], pb.StepResult]
WAYS: Mapping[str, tuple[Send, Send]] = {
    "unary": (Sent.unary, Sent.unary),
    "streamed": (Sent.stream, Sent.stream),
    "unary, then streamed": (Sent.unary, Sent.stream),
    "streamed, then unary": (Sent.stream, Sent.unary),
}


def bits(client: Client, name: str) -> tuple[int, dict[str, bytes]]:
    return client.get(name).step, {key: value.tobytes() for key, value in client.pull(name).items()}


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("case", OTHERS)
def test_another_content_is_refused(client: Client, case: str, ways: str) -> None:
    (first, second), (send, send_again) = OTHERS[case], WAYS[ways]
    name = client.create(VALUES).name
    assert send(first, client, name).step == 1
    before = bits(client, name)
    with expect_refusal() as told:
        send_again(second, client, name)
    field_ = "options.sequence" if send_again is Sent.unary else "step.sequence"
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_REUSED")
    assert (told.fields, told.metadata) == ([field_], {"expected": "2", "actual": "1"})
    assert bits(client, name) == before


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("case", ALIKE)
def test_the_same_content_is_answered_again(client: Client, case: str, ways: str) -> None:
    (first, second), (send, send_again) = ALIKE[case], WAYS[ways]
    name = client.create(VALUES).name
    result = send(first, client, name)
    before = bits(client, name)
    again = send_again(second, client, name)
    assert (result.replayed, again.replayed) == (False, True)
    for answer in (result, again):
        answer.ClearField("worker")  # a stream's plan names it
        answer.ClearField("replayed")
    assert again == result
    assert bits(client, name) == before


def test_a_gradient_id_takes_the_place_of_the_bytes(client: Client) -> None:
    name = client.create(VALUES).name
    assert whole(gradient_id=7).stream(client, name).step == 1
    assert whole(gradient_id=7, gradients={"a": B, "b": B}).stream(client, name).replayed
    for other in (whole(gradient_id=8), WHOLE, whole(gradient_id=7, gradients={"a": A})):
        with expect_refusal() as told:
            other.stream(client, name)
        assert told.reason == "SEQUENCE_REUSED"
    assert client.get(name).step == 1
