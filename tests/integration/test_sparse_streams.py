"""Sparse rows on a stream: indices in the header, values in chunks behind those of whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from optserve.v1 import session_pb2, tensor_pb2
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import NUMBERS, Array, Client, named, refused, rows, step_messages, tensor

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


def given(seed: int, dtype: Any) -> tuple[dict[str, Array], Rows]:
    """Whole tensors in layout order, which float64 comes last in, and rows: some twice, once none."""
    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> Array:
        return random.normal(size=shape).astype(dtype)

    table = random.integers(0, 6, seed % 3 * 4).astype(np.int32)
    wide = random.integers(0, 3, 3).astype(np.int64)
    return {"v": drawn(4), "b": drawn(3)}, {
        "wide": (wide, drawn(3, 2, 2)),
        "table": (table, drawn(table.size, 2)),
    }


def header_of(name: str, whole: dict[str, Array], sparse: Rows, **options: Any) -> pb.StepHeader:
    some = [tensor_pb2.RowIndices(name=n, indices=tensor(indices)) for n, (indices, _) in sparse.items()]
    dtype = next(iter(sparse.values()))[1].dtype
    return pb.StepHeader(
        name=name, tensors=sorted(whole), gradient_dtype=NUMBERS[dtype], sparse_gradients=some,
        options=pb.StepOptions(**options),
    )  # fmt: skip


def bytes_of(whole: dict[str, Array], sparse: Rows) -> bytes:
    return b"".join([a.tobytes() for a in whole.values()] + [v.tobytes() for _, v in sparse.values()])


def streamed(client: Client, name: str, whole: dict[str, Array], sparse: Rows, **options: Any) -> Any:
    messages = step_messages(header_of(name, whole, sparse, **options), bytes_of(whole, sparse), chunk=7)
    (answer,) = client.stream(messages)
    return answer.result


def unary(client: Client, name: str, whole: dict[str, Array], sparse: Rows, **options: Any) -> Any:
    request = pb.StepRequest(
        name=name, options=pb.StepOptions(**options), gradients=named(whole),
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
        results = [send(client, n, *given(seed, dtype)) for send, n in ((unary, one), (streamed, other))]
        assert results[0] == results[1]
    assert state(client, one) == state(client, other)
    assert state(client, one) != state(client, client.create(VALUES, adam(sparse)).name)


def test_rows_alone_leave_the_other_tensors_as_they_are(client: Client) -> None:
    name = client.create(VALUES).name
    streamed(client, name, {}, {"table": (np.array([4]), np.ones((1, 2), np.float32))})
    before, after = VALUES, client.pull(name)
    assert after["table"].tolist() == [[1, 1]] * 4 + [[0.5, 0.5], [1, 1]]
    assert all(np.array_equal(after[n], before[n]) for n in before.keys() - {"table"})


def test_each_tensor_keeps_its_own_type_where_none_is_stated(client: Client) -> None:
    name = client.create(VALUES).name
    whole = {"v": np.ones(4, np.float32), "b": np.ones(3)}
    sparse: Rows = {
        "table": (np.array([0]), np.ones((1, 2), np.float32)),
        "wide": (np.array([1]), np.ones((1, 2, 2))),
    }
    header = header_of(name, whole, sparse)
    header.ClearField("gradient_dtype")
    client.stream(step_messages(header, bytes_of(whole, sparse)))
    after = client.pull(name)
    assert after["table"][0].tolist() == [0.5, 0.5]
    assert after["wide"][:, 0, 0].tolist() == [2, 1.5, 2]
    assert (after["v"].tolist(), after["b"].tolist()) == ([-1.0] * 4, [0.0] * 3)


@pytest.mark.parametrize("order", [(unary, streamed), (streamed, unary), (streamed, streamed)])
def test_the_same_sequence_is_applied_once_whichever_way_it_comes(
    client: Client, order: tuple[Callable[..., Any], ...]
) -> None:
    name = client.create(VALUES, adam(LAZY)).name
    whole, sparse = given(1, np.float32)
    answers = [send(client, name, whole, sparse, worker="a", sequence=1) for send in order]
    assert [answer.replayed for answer in answers] == [False, True]
    before = state(client, name)
    indices, values = sparse["wide"]
    for other in ((indices[::-1], values), (indices, values + 1), (indices.astype(np.int32), values)):
        with refused() as told:
            streamed(client, name, whole, {**sparse, "wide": other}, worker="a", sequence=1)
        assert told.reason == "SEQUENCE_REUSED"
    assert state(client, name) == before


def indices(*wanted: int) -> Array:
    return np.array(wanted, np.int64)


WRONG: list[tuple[Callable[[pb.StepHeader], object], str, str]] = [
    (lambda h: change(h, indices(0, 6)), "OUT_OF_RANGE", "sparse_gradients[1].indices"),
    (lambda h: change(h, indices(-1, 0)), "OUT_OF_RANGE", "sparse_gradients[1].indices"),
    (lambda h: change(h, np.ones(2)), "DTYPE_MISMATCH", "sparse_gradients[1].indices.dtype"),
    (lambda h: change(h, indices(0, 1)[None]), "SHAPE_MISMATCH", "sparse_gradients[1].indices.shape"),
    (lambda h: setattr(h.sparse_gradients[1].indices, "data", b"123"), "BYTE_LENGTH_MISMATCH",
     "sparse_gradients[1].indices.data"),
    (lambda h: h.sparse_gradients[1].ClearField("indices"), "FIELD_REQUIRED",
     "sparse_gradients[1].indices.dtype"),
    (lambda h: setattr(h.sparse_gradients[1], "name", "t"), "UNKNOWN_TENSOR", "sparse_gradients[1].name"),
    (lambda h: setattr(h.sparse_gradients[1], "name", "s"), "SHAPE_MISMATCH", "sparse_gradients[1].name"),
    (lambda h: setattr(h.sparse_gradients[1], "name", "v"), "DUPLICATE_TENSOR", "sparse_gradients[1].name"),
    (lambda h: h.tensors.append("t"), "UNKNOWN_TENSOR", "tensors[2]"),
    (lambda h: setattr(h, "region", "r"), "CONFLICTING_FIELDS", "sparse_gradients"),
]  # fmt: skip


def change(header: pb.StepHeader, wanted: Array) -> None:
    header.sparse_gradients[1].indices.CopyFrom(tensor(wanted))


@pytest.mark.parametrize(("spoil", "reason", "field"), WRONG, ids=[f"{r}-{f}" for _, r, f in WRONG])
def test_a_wrong_header_changes_nothing(
    client: Client, spoil: Callable[[pb.StepHeader], object], reason: str, field: str
) -> None:
    name = client.create(VALUES, adam(DENSE)).name
    whole, sparse = given(2, np.float32)
    streamed(client, name, whole, sparse)
    before = state(client, name)
    header = header_of(name, whole, sparse)
    spoil(header)
    if header.region:
        del header.tensors[:]
        header.ClearField("gradient_dtype")
    with refused() as told:
        client.stream(step_messages(header, bytes_of(whole, sparse)))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert told.fields == [f"header.{field}"]
    assert state(client, name) == before


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
    whole, some = given(2, np.float32)
    streamed(client, name, whole, some)
    before = state(client, name)
    with refused() as told:
        messages = step_messages(header_of(name, whole, some), spoil(bytes_of(whole, some)))
        client.stream(messages)
    assert (told.reason, told.fields) == (reason, [field])
    assert state(client, name) == before


def test_rows_cannot_move_alone_beside_a_weight_average(client: Client) -> None:
    spec = adam(LAZY)
    spec.weight_average.SetInParent()
    name = client.create(VALUES, spec).name
    before = state(client, name)
    with refused() as told:
        streamed(client, name, *given(1, np.float32))
    assert (told.reason, told.fields) == ("CONFLICTING_FIELDS", ["header.sparse_gradients"])
    assert told.metadata["conflict"] == "spec.weight_average"
    assert state(client, name) == before


def test_more_rows_than_there_is_memory(client: Client) -> None:
    """A row of a MiB, named four million times: they would come to 4 TiB."""
    name = client.create({"table": np.zeros((1, 1 << 18), np.float32)}).name
    some = tensor_pb2.RowIndices(name="table", indices=tensor(np.zeros(1 << 22, np.int32)))
    with refused() as told:
        client.stream([pb.StepStreamRequest(header=pb.StepHeader(name=name, sparse_gradients=[some]))])
    assert (told.reason, told.metadata["limit"]) == ("LIMIT_EXCEEDED", "max_memory_bytes")
    assert client.get(name).step == 0


def test_a_stream_mixes_steps_with_rows_and_without(client: Client) -> None:
    """Of a table with more elements than a step on the event loop takes."""
    name = client.create({"table": np.zeros((100_000, 4), np.float32)}).name
    one: Rows = {"table": (indices(7, 99_999, 7), np.ones((3, 4), np.float32))}
    whole = {"table": np.full((100_000, 4), 2, np.float32)}

    def messages() -> Iterator[pb.StepStreamRequest]:
        for _ in range(2):
            yield from step_messages(header_of(name, {}, one), bytes_of({}, one))
            yield from step_messages(pb.StepHeader(), bytes_of(whole, {}))

    assert [answer.result.step for answer in client.stream(messages())] == [1, 2, 3, 4]
    table = client.pull(name)["table"]
    assert table[[0, 7, 99_999], 0].tolist() == [-2, -4, -3]
