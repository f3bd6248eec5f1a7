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


def test_more_than_a_mebibyte_of_rows_is_one_message(client):
    initial = {"e": np.zeros((3000, 128), np.float32), "w": np.zeros(300_000)}
    session = client.create_session(initial, optimizers.Sgd(learning_rate=1.0))
    indices = np.arange(2999, -1, -1)
    gradients = {"e": SparseRows(indices, np.repeat(indices, 128).reshape(3000, 128).astype(np.float32))}
    result = session.step({**gradients, "w": np.ones(300_000)}, pull=True)
    assert np.array_equal(result.parameters["e"][:, 5], -np.arange(3000))
    assert result.parameters["w"].sum() == -300_000
    session.delete()


def test_rows_whose_answer_was_lost_are_applied_once(session, distant, proxy, until):
    rows = {"b": SparseRows([1, 1], np.ones((2, 2)))}
    proxy.answers.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(distant.step, rows)
        until(lambda: session.get().step == 1)
        proxy.cut()
        proxy.answers.set()
        assert answer.result(20).replayed
    assert session.pull()["b"].tolist() == [[1, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("name", "indices", "values", "reason", "field"),
    [
        ("embeding", [0], [[1.0, 1.0]], optserve.Reason.UNKNOWN_TENSOR, "gradients['embeding']"),
        ("scale", [0], [1.0], optserve.Reason.SHAPE_MISMATCH, "gradients['scale']"),
        ("embedding", [[0]], [[1.0, 1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].indices"),
        ("embedding", [0], [[1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].values"),
        ("embedding", [0, 1], [[1.0, 1.0]], optserve.Reason.SHAPE_MISMATCH, "gradients['embedding'].values"),
        ("embedding", [6], [[1.0, 1.0]], optserve.Reason.OUT_OF_RANGE, "sparse_gradients[0].indices"),
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
