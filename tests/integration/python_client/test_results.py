"""Where a stream's results lie: in arrays of their own, in used memory, or in the caller's arrays."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

import optserve
from optserve import optimizers
from optserve._codec.buffer_pool import LARGE_BYTES, BufferPool

SGD = optimizers.SGD(learning_rate=1.0)
COUNT = 700_003


@pytest.fixture
def many(client):
    """Tensors of two types, small and large, one of them empty and one at an odd place."""
    shapes = {"a": ((3,), np.float32), "b": ((0, 2), np.float64), "c": ((COUNT,), np.float32)}
    shapes |= {"d": ((), np.float64), "e": ((600, 700), np.float64)}
    session = client.create_session({name: np.zeros(*of) for name, of in shapes.items()}, SGD)
    yield session
    session.delete()


def gradients(session, step):
    rng = np.random.default_rng(step)
    return {name: rng.standard_normal(t.shape).astype(t.dtype) for name, t in session.layout.items()}


def address_of(array):
    """Where an array lies; ``array.ctypes`` would hold it until garbage is collected."""
    return array.__array_interface__["data"][0]


def same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].tobytes() == array.tobytes()


def test_results_that_are_held_stay_as_they_are(way, many):
    expected = {name: np.zeros(t.shape, t.dtype) for name, t in many.layout.items()}
    held = []
    with many.stream(pull=True) as stream:
        for step in range(5):
            gradient = gradients(many, step)
            values = stream.step(gradient).parameters
            expected = {name: array - gradient[name] for name, array in expected.items()}
            part = values["c"][5:9]
            held.append((values, expected, part, part.copy()))
    for values, right, part, copy in held:
        same(values, right)
        assert part.tobytes() == copy.tobytes()


def test_a_loop_uses_two_memories_in_turn(way, client):
    session = client.create_session({"w": np.zeros(COUNT, np.float32)}, SGD)
    seen = set()
    with session.stream(pull=True) as stream:
        values = None
        for _ in range(6):
            values = stream.step({"w": np.ones(COUNT, np.float32)}).parameters["w"]
            seen.add(address_of(values))
    assert values[-1] == -6
    assert len(seen) == 2
    session.delete()


@pytest.mark.parametrize(
    "hold",
    [
        lambda buffer: buffer,
        lambda buffer: buffer[5:].view(np.float32),
        lambda buffer: np.ndarray((5,), np.float64, buffer, 8)[::2],
        lambda buffer: memoryview(buffer)[4:],
        lambda buffer: [buffer[:1].T],
    ],
)
def test_memory_that_anybody_holds_is_left_alone(hold):
    pool = BufferPool()
    first = pool.take(LARGE_BYTES + 1)[: LARGE_BYTES - 3]
    address = address_of(first)
    held = hold(first)
    del first
    others = {address_of(pool.take(LARGE_BYTES + 1)) for _ in range(5)}
    assert address not in others
    del held
    gc.collect()
    assert address_of(pool.take(LARGE_BYTES + 1)) in {address} | others


def test_memory_of_another_length_is_not_kept():
    pool = BufferPool()
    for length in (LARGE_BYTES, LARGE_BYTES + 1, LARGE_BYTES):
        assert pool.take(length).shape == (length,)
    assert len(pool._buffers) == 1


def test_the_caller_s_arrays_are_filled(way, many):
    fresh = many.layout
    target = {name: np.full(t.shape, 7, t.dtype) for name, t in fresh.items()}
    given = dict(target)
    expected = {name: np.zeros(t.shape, t.dtype) for name, t in fresh.items()}
    with many.stream(pull=True) as stream:
        for step in range(3):
            gradient = gradients(many, step)
            result = stream.step(gradient, into=target)
            expected = {name: array - gradient[name] for name, array in expected.items()}
            same(target, expected)
            assert all(result.parameters[name] is array is target[name] for name, array in given.items())
        target["c"] = np.empty(COUNT, np.float32)
        before = given["c"].copy()
        stream.step(gradient, into=target)
        assert given["c"].tobytes() == before.tobytes()
        same({"c": target["c"]}, {"c": before - gradient["c"]})


def test_arrays_of_other_types_and_orders_are_filled_too(way, client):
    session = client.create_session({"w": np.zeros((4, 6)), "v": np.zeros(3)}, SGD)
    target = {"w": np.zeros((6, 4), np.float32).T, "v": np.zeros(3, ">f8"), "more": None}
    with session.stream(pull=optserve.Pull(tensors=["w", "v"], wire_dtype=ml_dtypes.bfloat16)) as stream:
        for step in (1, 2):
            stream.step({"w": np.full((4, 6), 0.5), "v": np.ones(3)}, into=target)
            np.testing.assert_array_equal(target["w"], np.full((4, 6), -0.5 * step))
            np.testing.assert_array_equal(target["v"], np.full(3, -1.0 * step))
    session.delete()


@pytest.mark.parametrize(
    ("into", "error"),
    [
        ({"w": np.zeros(3)}, "no array for tensor 'b'"),
        ({"w": np.zeros(4), "b": np.zeros((2, 2))}, "shape"),
        ({"w": np.broadcast_to(0.0, 3), "b": np.zeros((2, 2))}, "read-only"),
        ({"w": [0.0] * 3, "b": np.zeros((2, 2))}, "not a NumPy array"),
        ({"w": np.zeros(3, np.int64), "b": np.zeros((2, 2))}, "element type"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_the_step(way, session, into, error):
    with session.stream(pull=True) as stream, pytest.raises((ValueError, TypeError), match=error):
        stream.step({"w": np.ones(3)}, into=into)
    with session.stream() as stream, pytest.raises(ValueError, match="asked for"):
        stream.step({"w": np.ones(3)}, into={"w": np.zeros(3), "b": np.zeros((2, 2))})
    assert session.get().step == 0


def test_an_answer_that_was_cut_fills_the_arrays_the_second_time(way, many, proxy):
    target = {name: np.full(t.shape, 7, t.dtype) for name, t in many.layout.items()}
    gradient = gradients(many, 0)
    with (
        optserve.connect(proxy.address, timeout=20) as client,
        client.session(many.name).stream(pull=True) as stream,
    ):
        proxy.downstream_budget = 3_000_000
        assert stream.step(gradient, into=target).step == 1
    assert proxy.cuts == 1
    same(target, {name: 0 - array for name, array in gradient.items()})


def test_a_pull_fills_the_caller_s_arrays(many):
    target = {"c": np.full(COUNT, 7, np.float32), "e": np.full((700, 600), 7.0).T}
    pulled = many.pull(["c", "e"], into=target)
    assert pulled["e"] is target["e"]
    assert not np.any(target["c"])
    assert not np.any(target["e"])
    many.step({"c": np.ones(COUNT, np.float32)})
    many.pull(["c"], into=target, if_newer_than_step=1)
    assert not np.any(target["c"]), "nothing is newer"
    many.pull(["c"], into=target)
    assert set(np.unique(target["c"])) == {-1.0}
    with pytest.raises(ValueError, match="no array"):
        many.pull(into=target)


def test_equal_steps_send_what_unequal_ones_do(way, many):
    """A plan is used again only if it fits."""
    full = gradients(many, 1)
    changes = [
        full,
        full,
        {name: array.astype(np.float32) for name, array in full.items()},
        {name: full[name] for name in ("a", "e")},
        {name: full[name] for name in ("e", "a")},
        {name: full[name] for name in ("a", "d")},
        {**full, "e": np.asfortranarray(full["e"])},
        {**full, "e": full["e"][::-1]},
        {**full, "a": full["a"].tolist()},
        full,
    ]
    expected = {name: np.zeros(t.shape, t.dtype) for name, t in many.layout.items()}
    with many.stream(pull=True) as stream:
        for change in changes:
            values = stream.step(change).parameters
            for name, array in change.items():
                expected[name] = expected[name] - np.asarray(array).astype(expected[name].dtype)
            same(values, expected)


def test_converted_gradients_may_change_at_once(way, many):
    gradient = {"c": np.ones(COUNT), "a": np.ones(3)}
    with many.stream(pull=True, wire_dtype="float16", window=4) as stream:
        pending = []
        for _ in range(4):
            pending.append(stream.submit(gradient))
            gradient["c"] += 1
        last = stream.step(gradient).parameters["c"][-1]
        assert [float(p.result().parameters["c"][-1]) for p in pending] == [-1, -3, -6, -10]
    assert last == -15
