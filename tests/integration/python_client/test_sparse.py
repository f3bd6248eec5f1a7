"""Sparse rows in the Python client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import optserve
from optserve import SparseRows, SparseUpdate, optimizers


@pytest.fixture
def embedding(client):
    initial = {"embedding": np.zeros((6, 2), np.float32), "head": np.zeros(3), "scale": np.ones(())}
    session = client.create_session(
        initial, optimizers.Momentum(learning_rate=1.0, momentum=0.5, convention=optserve.TORCH)
    )
    yield session
    session.delete()


def test_rows_beside_whole_tensors(embedding):
    assert embedding.spec.gradient.sparse is SparseUpdate.LAZY
    rows = SparseRows(np.array([4, 1, 4]), np.ones((3, 2), np.float32))
    result = embedding.step({"embedding": rows, "head": np.ones(3)}, pull=True)
    assert result.step == 1
    assert result.parameters["embedding"].tolist() == [[0, 0], [-1, -1], [0, 0], [0, 0], [-2, -2], [0, 0]]
    assert result.parameters["head"].tolist() == [-1, -1, -1]
    embedding.step({"embedding": SparseRows([0], np.ones((1, 2)))}, wire_dtype=np.float16)
    assert embedding.pull()["embedding"].tolist()[:2] == [[-1, -1], [-1, -1]]
    assert embedding.step({"embedding": SparseRows([], np.zeros((0, 2)))}).step == 3


def test_dense_rows_on_request(client):
    session = client.create_session(
        {"e": np.zeros((2, 1))},
        optimizers.Momentum(learning_rate=1.0, momentum=0.5),
        gradient=optserve.Gradient(sparse=SparseUpdate.DENSE),
    )
    for index in (0, 1):
        session.step({"e": SparseRows([index], [[1.0]])})
    assert session.pull()["e"].tolist() == [[-1.5], [-1]]
    session.delete()


def test_more_than_a_mebibyte_of_rows_goes_over_a_stream(client):
    initial = {"e": np.zeros((3000, 128), np.float32), "w": np.zeros(300_000)}
    session = client.create_session(initial, optimizers.SGD(learning_rate=1.0))
    indices = np.arange(2999, -1, -1)
    gradients = {"e": SparseRows(indices, np.repeat(indices, 128).reshape(3000, 128).astype(np.float32))}
    result = session.step({**gradients, "w": np.ones(300_000)}, pull=True)
    assert np.array_equal(result.parameters["e"][:, 5], -np.arange(3000))
    assert result.parameters["w"].sum() == -300_000
    session.delete()


def test_more_rows_than_fit_into_a_message(client):
    """And more than the table has."""
    initial = {"e": np.zeros((2, 70_000), np.float32)}
    session = client.create_session(initial, optimizers.SGD(learning_rate=1.0))
    values = np.ones((250, 70_000), np.float32)
    assert values.nbytes > 64 << 20
    session.step({"e": SparseRows(np.arange(250) % 2, values)})
    assert (session.pull()["e"] == -125).all()
    session.delete()


def test_a_stream_takes_what_a_step_takes(client, embedding):
    other = client.create_session(embedding.pull(), embedding.spec.optimizer)
    random = np.random.default_rng(5)
    steps = []
    for count in (3, 0, 5, 1):
        rows = SparseRows(random.integers(0, 6, count), random.normal(size=(count, 2)).astype(np.float32))
        steps += [{"embedding": rows, "head": random.normal(size=3)}, {"embedding": rows}]
    with embedding.stream(pull=True) as stream:
        streamed = list(stream.steps(steps))
    for gradients, result in zip(steps, streamed, strict=True):
        single = other.step(gradients, pull=True)
        assert single.gradient_norm == result.gradient_norm
        for name, value in single.parameters.items():
            assert value.tobytes() == result.parameters[name].tobytes()
    other.delete()


def test_submitted_rows_may_be_changed_at_once(embedding):
    indices, values = np.array([1, 2]), np.ones((2, 2), np.float32)
    with embedding.stream() as stream:
        pending = [stream.submit({"embedding": SparseRows(indices, values)}) for _ in range(3)]
        indices[:], values[:] = 5, 7
        assert [step.result().step for step in pending] == [1, 2, 3]
    assert embedding.pull()["embedding"][:, 0].tolist() == [0, -4.25, -4.25, 0, 0, 0]


@pytest.mark.parametrize("index", [6, -1])
def test_a_refused_row_abandons_what_was_submitted_behind_it(embedding, index):
    one, wrong = (SparseRows([i], np.ones((1, 2), np.float32)) for i in (1, index))
    stream = embedding.stream()
    first, refused, behind = (stream.submit({"embedding": rows}) for rows in (one, wrong, one))
    assert first.result().step == 1
    with pytest.raises(optserve.errors.InvalidArgument) as told:
        refused.result()
    assert told.value.reason is optserve.Reason.OUT_OF_RANGE
    assert told.value.field == "step.row_indices[0]"
    with pytest.raises(optserve.errors.Abandoned):
        behind.result()
    assert stream.step({"embedding": one}).step == 2
    stream.close()


def test_streamed_rows_whose_answer_was_lost_are_applied_once(session, distant, proxy, until):
    rows = {"b": SparseRows([1, 1], np.ones((2, 2)))}
    with distant.stream() as stream:
        assert stream.submit(rows).result().step == 1
        proxy.answers.clear()
        pending = [stream.submit(rows) for _ in range(3)]
        until(lambda: session.get().step == 4)
        proxy.cut()
        proxy.answers.set()
        assert [step.result().replayed for step in pending] == [True] * 3
    assert session.pull()["b"].tolist() == [[1, 1], [-7, -7]]


def test_rows_whose_answer_was_lost_are_applied_once(session, distant, proxy, until):
    rows = {"b": SparseRows([1, 1], np.ones((2, 2)))}
    distant.step(rows)
    proxy.answers.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(distant.step, rows)
        until(lambda: session.get().step == 2)
        proxy.cut()
        proxy.answers.set()
        assert answer.result(20).replayed
    assert session.pull()["b"].tolist() == [[1, 1], [-3, -3]]


@pytest.mark.parametrize(
    ("name", "indices", "values", "reason", "field"),
    [
        ("embeding", [0], [[1.0, 1.0]], optserve.Reason.UNKNOWN_TENSOR, "gradients['embeding']"),
        ("scale", [0], [1.0], optserve.Reason.SHAPE_MISMATCH, "gradients['scale']"),
        ("embedding", [[0]], [[1.0, 1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].indices"),
        ("embedding", [0], [[1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].values"),
        ("embedding", [0, 1], [[1.0, 1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].values"),
        ("embedding", [6], [[1.0, 1.0]], optserve.Reason.OUT_OF_RANGE, "step.row_indices[0]"),
    ],
)
def test_wrong_rows_are_refused(embedding, name, indices, values, reason, field):
    with pytest.raises(optserve.errors.InvalidArgument) as refused:
        embedding.step({name: SparseRows(indices, values)})
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert embedding.step({"head": np.ones(3)}).step == 1


def test_element_types_are_checked(embedding):
    for rows, what in (
        (SparseRows([0.0], [[1.0, 1.0]]), "indices"),
        (SparseRows([0], [[1, 1]]), "values"),
        (SparseRows([True], [[1.0, 1.0]]), "indices"),
    ):
        with pytest.raises(TypeError, match=what):
            embedding.step({"embedding": rows})
