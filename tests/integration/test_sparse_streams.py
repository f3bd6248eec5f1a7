"""Sparse rows on a stream: indices at a step's beginning, values in chunks behind those of whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import (
    NUMBERS,
    Array,
    Client,
    chunk_message,
    expect_refusal,
    name_arrays,
    plan_message,
    rows,
    step_messages,
    tensor,
)

VALUES = {
    "table": np.ones((6, 2), np.float32),
    "wide": np.full((3, 2, 2), 2.0),
    "b": np.full(3, 0.5),
    "v": np.full(4, -0.5, np.float32),
    "s": np.ones(()),
}
LAZY, DENSE = session_pb2.SPARSE_UPDATE_LAZY, session_pb2.SPARSE_UPDATE_DENSE
Rows = dict[str, tuple[Array, Array]]


def adam(sparse: session_pb2.SparseUpdate.ValueType) -> session_pb2.SessionSpec:
    spec = session_pb2.SessionSpec(gradient=session_pb2.GradientSpec(sparse=sparse))
    spec.optimizer.adam.epsilon = 0.01
    return spec


def make_gradient(seed: int, dtype: Any) -> tuple[dict[str, Array], Rows]:
    """Whole tensors in layout order, which float64 comes first in, and rows: some twice, once none."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return random.normal(size=shape).astype(dtype)

    table = random.integers(0, 6, seed % 3 * 4).astype(np.int32)
    wide = random.integers(0, 3, 3).astype(np.int64)
    return {"b": draw(3), "v": draw(4)}, {
        "wide": (wide, draw(3, 2, 2)),
        "table": (table, draw(table.size, 2)),
    }


def plan_of(name: str, whole: dict[str, Array], sparse: Rows, worker: str = "") -> pb.StepPlan:
    dtype = next(iter(sparse.values()))[1].dtype
    return pb.StepPlan(
        session=name, worker=worker, tensors=sorted(whole), sparse_tensors=list(sparse),
        gradient_dtype=NUMBERS[dtype],
    )  # fmt: skip


def start_of(whole: dict[str, Array], sparse: Rows, **fields: Any) -> pb.StepStart:
    rows_of = [tensor(indices) for indices, _ in sparse.values()]
    return pb.StepStart(byte_count=len(bytes_of(whole, sparse)), row_indices=rows_of, **fields)


def messages_of(start: pb.StepStart, data: bytes, chunk: int = 11) -> Iterator[pb.StepStreamRequest]:
    yield pb.StepStreamRequest(step=start)
    for first in range(0, len(data), chunk):
        yield chunk_message(first, data[first : first + chunk])


def bytes_of(whole: dict[str, Array], sparse: Rows) -> bytes:
    return b"".join([a.tobytes() for a in whole.values()] + [v.tobytes() for _, v in sparse.values()])


def stream_step(client: Client, name: str, whole: dict[str, Array], sparse: Rows, **options: Any) -> Any:
    plan = plan_of(name, whole, sparse, options.pop("worker", ""))
    messages = messages_of(start_of(whole, sparse, **options), bytes_of(whole, sparse))
    (answer,) = client.stream(plan, messages)
    return answer.result


def unary(client: Client, name: str, whole: dict[str, Array], sparse: Rows, **options: Any) -> Any:
    request = pb.StepRequest(
        name=name, options=pb.StepOptions(**options), gradients=name_arrays(whole),
        sparse_gradients=[rows(n, *given) for n, given in sparse.items()],
    )  # fmt: skip
    return client.sessions.Step(request, timeout=20).result


def state(client: Client, name: str) -> tuple[int, dict[str, bytes]]:
    return client.get(name).step, {n: a.tobytes() for n, a in client.pull(name).items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("sparse", [LAZY, DENSE])
def test_unary_and_streamed_rows_agree_to_the_bit(
    client: Client, sparse: session_pb2.SparseUpdate.ValueType, dtype: Any
) -> None:
    one, other = (client.create(VALUES, adam(sparse)).name for _ in range(2))
    for seed in range(5):
        results = [
            send(client, n, *make_gradient(seed, dtype)) for send, n in ((unary, one), (stream_step, other))
        ]
        assert results[0] == results[1]
    assert state(client, one) == state(client, other)
    assert state(client, one) != state(client, client.create(VALUES, adam(sparse)).name)


@pytest.mark.parametrize("wanted", [(1,), (2, 0, 1), (1, 1, 1)], ids=["one", "every", "one, many times"])
@pytest.mark.parametrize("sparse", [LAZY, DENSE])
def test_a_unary_step_with_rows_answers_with_every_row(
    client: Client, sparse: session_pb2.SparseUpdate.ValueType, wanted: tuple[int, ...]
) -> None:
    """Of a tensor that is the session's only one, whose rows lie where its parameters could."""
    spec = session_pb2.SessionSpec(gradient=session_pb2.GradientSpec(sparse=sparse))
    spec.optimizer.sgd.learning_rate = 0.5
    name = client.create({"t": np.zeros((3, 2), np.float32)}, spec).name
    expected = np.zeros((3, 2), np.float32)
    for row in wanted:
        expected[row] -= 1
    request = pb.StepRequest(name=name, options=pb.StepOptions(pull=pb.PullOptions()))
    request.sparse_gradients.append(rows("t", indices(*wanted), np.full((len(wanted), 2), 2, np.float32)))
    (answer,) = client.sessions.Step(request, timeout=20).parameters
    assert np.frombuffer(answer.tensor.data, np.float32).tolist() == expected.ravel().tolist()
    assert client.pull(name)["t"].tolist() == expected.tolist()


def test_rows_alone_leave_the_other_tensors_as_they_are(client: Client) -> None:
    name = client.create(VALUES).name
    stream_step(client, name, {}, {"table": (np.array([4]), np.ones((1, 2), np.float32))})
    before, after = VALUES, client.pull(name)
    assert after["table"].tolist() == [[1, 1]] * 4 + [[0.5, 0.5], [1, 1]]
    assert all(np.array_equal(after[n], before[n]) for n in before.keys() - {"table"})


def test_each_tensor_keeps_its_own_type_where_none_is_stated(client: Client) -> None:
    name = client.create(VALUES).name
    whole = {"b": np.ones(3), "v": np.ones(4, np.float32)}
    sparse: Rows = {
        "table": (np.array([0]), np.ones((1, 2), np.float32)),
        "wide": (np.array([1]), np.ones((1, 2, 2))),
    }
    plan = plan_of(name, whole, sparse)
    plan.ClearField("gradient_dtype")
    client.stream(plan, messages_of(start_of(whole, sparse), bytes_of(whole, sparse)))
    after = client.pull(name)
    assert after["table"][0].tolist() == [0.5, 0.5]
    assert after["wide"][:, 0, 0].tolist() == [2, 1.5, 2]
    assert (after["v"].tolist(), after["b"].tolist()) == ([-1.0] * 4, [0.0] * 3)


@pytest.mark.parametrize("order", [(unary, stream_step), (stream_step, unary), (stream_step, stream_step)])
def test_the_same_sequence_is_applied_once_whichever_way_it_comes(
    client: Client, order: tuple[Callable[..., Any], ...]
) -> None:
    name = client.create(VALUES, adam(LAZY)).name
    whole, sparse = make_gradient(1, np.float32)
    answers = [send(client, name, whole, sparse, worker="a", sequence=1) for send in order]
    assert [answer.replayed for answer in answers] == [False, True]
    before = state(client, name)
    indices, values = sparse["wide"]
    for other in ((indices[::-1], values), (indices, values + 1), (indices.astype(np.int32), values)):
        with expect_refusal() as told:
            stream_step(client, name, whole, {**sparse, "wide": other}, worker="a", sequence=1)
        assert told.reason == "SEQUENCE_REUSED"
    assert state(client, name) == before


def indices(*wanted: int) -> Array:
    return np.array(wanted, np.int64)


def replace_rows(start: pb.StepStart, wanted: Array) -> None:
    start.row_indices[1].CopyFrom(tensor(wanted))


WRONG_STEP: list[tuple[Callable[[pb.StepStart], object], str, str]] = [
    (lambda s: replace_rows(s, indices(0, 6)), "OUT_OF_RANGE", "row_indices[1]"),
    (lambda s: replace_rows(s, indices(-1, 0)), "OUT_OF_RANGE", "row_indices[1]"),
    (lambda s: replace_rows(s, np.ones(2)), "DTYPE_MISMATCH", "row_indices[1].dtype"),
    (lambda s: replace_rows(s, indices(0, 1)[None]), "SHAPE_MISMATCH", "row_indices[1].shape"),
    (lambda s: setattr(s.row_indices[1], "data", b"123"), "BYTE_LENGTH_MISMATCH", "row_indices[1].data"),
    (lambda s: s.row_indices[1].Clear(), "FIELD_REQUIRED", "row_indices[1].dtype"),
    (lambda s: s.row_indices.pop(), "CONFLICTING_FIELDS", "row_indices"),
    (lambda s: s.row_indices.add(), "FIELD_REQUIRED", "row_indices[2].dtype"),
    (lambda s: s.row_indices.append(s.row_indices[0]), "CONFLICTING_FIELDS", "row_indices"),
    (lambda s: replace_rows(s, indices(0)), "BYTE_LENGTH_MISMATCH", "byte_count"),
    (lambda s: s.ClearField("byte_count"), "BYTE_LENGTH_MISMATCH", "byte_count"),
]

WRONG_PLAN: list[tuple[Callable[[pb.StepPlan], object], str, str]] = [
    (lambda p: p.sparse_tensors.append("t"), "UNKNOWN_TENSOR", "sparse_tensors[2]"),
    (lambda p: p.sparse_tensors.append("s"), "SHAPE_MISMATCH", "sparse_tensors[2]"),
    (lambda p: p.sparse_tensors.append("v"), "DUPLICATE_TENSOR", "sparse_tensors[2]"),
    (lambda p: p.sparse_tensors.append("table"), "DUPLICATE_TENSOR", "sparse_tensors[2]"),
    (lambda p: p.tensors.append("t"), "UNKNOWN_TENSOR", "tensors[2]"),
]


def check_refused(
    client: Client, spoil: Callable[[pb.StepPlan, pb.StepStart], object], reason: str, field: str
) -> None:
    """Sends nothing after the beginning of the step, so that nothing else can be wrong."""
    name = client.create(VALUES, adam(DENSE)).name
    whole, sparse = make_gradient(2, np.float32)
    stream_step(client, name, whole, sparse)
    before = state(client, name)
    plan, start = plan_of(name, whole, sparse), start_of(whole, sparse)
    spoil(plan, start)
    with expect_refusal() as told:
        client.exchange([pb.StepStreamRequest(plan=plan), pb.StepStreamRequest(step=start)])
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (told.fields, told.applied) == ([field], "no")
    assert state(client, name) == before


@pytest.mark.parametrize(
    ("spoil", "reason", "field"), WRONG_STEP, ids=[f"{i}-{r}-{f}" for i, (_, r, f) in enumerate(WRONG_STEP)]
)
def test_a_wrong_beginning_changes_nothing(
    client: Client, spoil: Callable[[pb.StepStart], object], reason: str, field: str
) -> None:
    check_refused(client, lambda _, start: spoil(start), reason, f"step.{field}")


@pytest.mark.parametrize(("spoil", "reason", "field"), WRONG_PLAN, ids=[f"{r}-{f}" for _, r, f in WRONG_PLAN])
def test_a_wrong_plan_changes_nothing(
    client: Client, spoil: Callable[[pb.StepPlan], object], reason: str, field: str
) -> None:
    check_refused(client, lambda plan, _: spoil(plan), reason, f"plan.{field}")


@pytest.mark.parametrize(
    ("options", "code", "reason", "field"),
    [
        ({"sequence": 4}, "FAILED_PRECONDITION", "SEQUENCE_GAP", "step.sequence"),
        ({"sequence": 1, "expected_step": 7}, "ABORTED", "STEP_MISMATCH", "step.expected_step"),
    ],
)
def test_a_wrong_sequence_or_step_is_refused_before_the_rows(
    client: Client, options: dict[str, int], code: str, reason: str, field: str
) -> None:
    name = client.create(VALUES).name
    whole, sparse = make_gradient(2, np.float32)
    plan = pb.StepStreamRequest(plan=plan_of(name, whole, sparse, "a"))
    with expect_refusal() as told:
        client.exchange([plan, pb.StepStreamRequest(step=start_of(whole, sparse, **options))])
    assert (told.code.name, told.reason, told.fields) == (code, reason, [field])
    assert client.get(name).step == 0


@pytest.mark.parametrize(
    ("spoil", "reason", "field"),
    [
        (lambda data: data[:-1], "STREAM_TRUNCATED", "chunk"),
        (lambda data: data + b"0", "BYTE_LENGTH_MISMATCH", "chunk.data"),
        (lambda data: data[:-4] + np.float32(np.nan).tobytes(), "NON_FINITE_GRADIENT", "chunk.data"),
    ],
)
@pytest.mark.parametrize("sparse", [LAZY, DENSE])
def test_wrong_bytes_change_nothing(
    client: Client,
    sparse: session_pb2.SparseUpdate.ValueType,
    spoil: Callable[[bytes], bytes],
    reason: str,
    field: str,
) -> None:
    name = client.create(VALUES, adam(sparse)).name
    whole, some = make_gradient(2, np.float32)
    stream_step(client, name, whole, some)
    before = state(client, name)
    with expect_refusal() as told:
        messages = messages_of(start_of(whole, some), spoil(bytes_of(whole, some)))
        client.stream(plan_of(name, whole, some), messages)
    assert (told.reason, told.fields) == (reason, [field])
    assert state(client, name) == before


def test_rows_cannot_move_alone_beside_a_weight_average(client: Client) -> None:
    spec = adam(LAZY)
    spec.weight_average.SetInParent()
    name = client.create(VALUES, spec).name
    before = state(client, name)
    with expect_refusal() as told:
        stream_step(client, name, *make_gradient(1, np.float32))
    assert (told.reason, told.fields) == ("CONFLICTING_FIELDS", ["sparse_gradients"])
    assert told.metadata["conflict"] == "spec.weight_average"
    assert state(client, name) == before


def test_more_rows_than_there_is_memory(client: Client) -> None:
    """A row of a MiB, named four million times: they would come to 4 TiB."""
    name = client.create({"table": np.zeros((1, 1 << 18), np.float32)}).name
    start = pb.StepStart(byte_count=1 << 42, row_indices=[tensor(np.zeros(1 << 22, np.int32))])
    with expect_refusal() as told:
        client.stream(pb.StepPlan(session=name, sparse_tensors=["table"]), [pb.StepStreamRequest(step=start)])
    assert (told.reason, told.metadata["limit"]) == ("LIMIT_EXCEEDED", "max_memory_bytes")
    assert client.get(name).step == 0


def test_a_stream_mixes_steps_with_rows_and_without(client: Client) -> None:
    """Of a table with more elements than a step on the event loop takes."""
    name = client.create({"table": np.zeros((100_000, 4), np.float32)}).name
    one: Rows = {"table": (indices(7, 99_999, 7), np.ones((3, 4), np.float32))}
    whole = {"table": np.full((100_000, 4), 2, np.float32)}

    def messages() -> Iterator[pb.StepStreamRequest]:
        for _ in range(2):
            yield pb.StepStreamRequest(plan=plan_of(name, {}, one))
            yield from messages_of(start_of({}, one), bytes_of({}, one))
            yield plan_message(name)
            yield from step_messages(bytes_of(whole, {}))

    answers = client.exchange(messages())
    assert [answer.result.step for answer in answers if answer.HasField("result")] == [1, 2, 3, 4]
    assert [answer.planned.step for answer in answers if answer.HasField("planned")] == [0, 1, 2, 3]
    table = client.pull(name)["table"]
    assert table[[0, 7, 99_999], 0].tolist() == [-2, -4, -3]
