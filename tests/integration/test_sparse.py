"""Sparse rows over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from optserve.v1 import session_pb2, tensor_pb2
from optserve.v1 import session_service_pb2 as pb
from optserve.v1.convention_pb2 import CONVENTION_OPTAX, CONVENTION_TORCH, CONVENTION_UNSPECIFIED
from tests.integration.client import Client, expect_refusal, name_arrays, rows, sgd

VALUES = {"table": np.zeros((5, 2), np.float32), "b": np.zeros(2, np.float64), "s": np.ones(())}
LAZY, DENSE = session_pb2.SPARSE_UPDATE_LAZY, session_pb2.SPARSE_UPDATE_DENSE
INDICES = np.array([3, 1, 3], np.int64)
GRADIENT = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def momentum(sparse: session_pb2.SparseUpdate.ValueType) -> session_pb2.SessionSpec:
    spec = session_pb2.SessionSpec(gradient=session_pb2.GradientSpec(sparse=sparse))
    spec.optimizer.momentum.learning_rate = 0.5
    spec.optimizer.momentum.momentum = 0.5
    return spec


def send(client: Client, name: str, *sparse: tensor_pb2.SparseRows, **fields: Any) -> pb.StepResponse:
    request = pb.StepRequest(name=name, sparse_gradients=sparse, **fields)
    return client.sessions.Step(request, timeout=20)


@pytest.mark.parametrize(("sparse", "row_3"), [(LAZY, [-3, -4]), (DENSE, [-4.5, -6])])
def test_a_row_that_is_left_out_rests_or_goes_on(
    client: Client, sparse: session_pb2.SparseUpdate.ValueType, row_3: list[float]
) -> None:
    session = client.create(VALUES, momentum(sparse))
    assert session.spec.gradient.sparse == sparse
    first = send(
        client, session.name, rows("table", INDICES, GRADIENT), gradients=name_arrays({"b": np.ones(2)})
    )
    assert first.result.gradient_norm == pytest.approx((36 + 64 + 9 + 16 + 2) ** 0.5)
    one = rows("table", np.array([0], np.int32), np.ones((1, 2), ml_dtypes.bfloat16))
    second = send(client, session.name, one, options=pb.StepOptions(pull=pb.PullOptions()))
    assert (second.result.step, second.parameters_step) == (2, 2)
    pulled = client.pull(session.name)
    assert pulled["table"][3].tolist() == row_3
    assert pulled["table"][0].tolist() == [-0.5, -0.5]
    assert pulled["table"][[2, 4]].tolist() == [[0, 0], [0, 0]]
    assert pulled["b"].tolist() == [-0.5, -0.5]


def test_the_convention_says_what_rows_mean(client: Client) -> None:
    for convention, sparse in (
        (CONVENTION_TORCH, LAZY),
        (CONVENTION_OPTAX, DENSE),
        (CONVENTION_UNSPECIFIED, DENSE),
    ):
        spec = sgd()
        spec.optimizer.convention = convention
        assert client.create(VALUES, spec).spec.gradient.sparse == sparse


def test_the_same_sequence_is_applied_once(client: Client) -> None:
    session = client.create(VALUES)
    options = pb.StepOptions(worker="a", sequence=1)
    answers = [send(client, session.name, rows("table", INDICES, GRADIENT), options=options) for _ in "ab"]
    assert [answer.result.replayed for answer in answers] == [False, True]
    with expect_refusal() as told:
        send(client, session.name, rows("table", INDICES - 1, GRADIENT), options=options)
    assert told.reason == "SEQUENCE_REUSED"
    assert client.pull(session.name)["table"][3].tolist() == [-3, -4]


def floats(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def break_rows(change: Callable[[tensor_pb2.SparseRows], object]) -> tensor_pb2.SparseRows:
    message = rows("table", INDICES, GRADIENT)
    change(message)
    return message


REFUSED = [
    (rows("table", np.array([0, 5]), floats((2, 2))), "OUT_OF_RANGE", "indices"),
    (rows("table", INDICES, floats((3, 3))), "SHAPE_MISMATCH", "values.shape"),
    (rows("table", floats((3,)), GRADIENT), "DTYPE_MISMATCH", "indices.dtype"),
    (rows("table", INDICES, INDICES), "DTYPE_MISMATCH", "values.dtype"),
    (rows("s", INDICES[:1], floats((1,))), "SHAPE_MISMATCH", "name"),
    (rows("t", INDICES, GRADIENT), "UNKNOWN_TENSOR", "name"),
    (rows("table", INDICES, GRADIENT * np.inf), "NON_FINITE_GRADIENT", "values.data"),
    (break_rows(lambda m: m.ClearField("indices")), "FIELD_REQUIRED", "indices.dtype"),
    (break_rows(lambda m: setattr(m.values, "data", b"123")), "BYTE_LENGTH_MISMATCH", "values.data"),
]


@pytest.mark.parametrize(("wrong", "reason", "field"), REFUSED, ids=[f"{r}-{f}" for _, r, f in REFUSED])
def test_wrong_rows_change_nothing(
    client: Client, wrong: tensor_pb2.SparseRows, reason: str, field: str
) -> None:
    session = client.create({**VALUES, "more": np.zeros((2, 1))})
    fine = rows("more", np.array([1]), np.ones((1, 1)))
    with expect_refusal() as told:
        send(client, session.name, fine, wrong, gradients=name_arrays({"b": np.ones(2)}))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert told.fields == [f"sparse_gradients[1].{field}"]
    assert client.get(session.name).step == 0
    pulled = client.pull(session.name)
    assert not any(pulled[name].any() for name in ("table", "b", "more"))


def test_an_index_is_named(client: Client) -> None:
    session = client.create(VALUES)
    with expect_refusal() as told:
        send(client, session.name, rows("table", np.array([0, -7]), floats((2, 2))))
    assert told.metadata == {"tensor": "table", "index": "-7", "range": "in [0, 5)"}


def test_a_tensor_is_given_dense_or_sparse(client: Client) -> None:
    session = client.create(VALUES)
    with expect_refusal() as told:
        send(
            client, session.name, rows("table", INDICES, GRADIENT),
            gradients=name_arrays({"table": VALUES["table"]}),
        )  # fmt: skip
    assert (told.reason, told.fields) == ("DUPLICATE_TENSOR", ["sparse_gradients[0].name"])


def test_rows_cannot_move_alone_beside_a_weight_average(client: Client) -> None:
    spec = momentum(LAZY)
    spec.weight_average.SetInParent()
    session = client.create(VALUES, spec)
    with expect_refusal() as told:
        send(client, session.name, rows("table", INDICES, GRADIENT))
    assert (told.reason, told.fields) == ("CONFLICTING_FIELDS", ["sparse_gradients"])
    assert told.metadata == {"tensor": "table", "conflict": "spec.weight_average"}


def test_few_rows_of_a_large_table(client: Client) -> None:
    """More elements than a step on the event loop takes."""
    table = np.zeros((100_000, 4), np.float32)
    for sparse in (LAZY, DENSE):
        session = client.create({"table": table}, momentum(sparse))
        send(client, session.name, rows("table", np.array([99_999, 7]), floats((2, 4))))
        moved = client.pull(session.name)["table"]
        assert np.flatnonzero(moved.any(1)).tolist() == [7, 99_999]
        assert moved[7].tolist() == [-0.5] * 4
