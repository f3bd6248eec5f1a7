"""Creating, finding, listing and deleting sessions; their layout; pushed values."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.he import He
from optserve_server.initializers.normal import Normal
from optserve_server.initializers.orthogonal import Orthogonal
from optserve_server.initializers.uniform import Uniform
from optserve_server.optimizers.adam import Adam
from optserve_server.sessions.store import Limits, ParameterInit, Store
from optserve_server.spec.session_spec import ParameterGroup, WeightAverageSpec
from tests.service.sessions.support import parameters, session_of, spec_of, step

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def inline(name: str, *shape: int) -> ParameterInit:
    return ParameterInit(name, F32, shape, np.ones(shape, F32))


def refusal(call: Any, *arguments: Any) -> DomainError:
    with pytest.raises(DomainError) as caught:
        call(*arguments)
    error: DomainError = caught.value
    return error


def test_sessions_are_found_listed_and_deleted() -> None:
    store = Store(NumpyBackend())
    for name in ("c", "a", "b"):
        store.create(name, spec_of(), [inline("w", 2)])
    first, after = store.list_page(2)
    rest, end = store.list_page(2, after)
    assert [s.id for s in first + rest] == ["a", "b", "c"]
    assert (after, end) == ("b", "")
    held = store.get("b")
    store.delete("b")
    assert len(store) == 2
    assert refusal(store.get, "b").reason is Reason.SESSION_NOT_FOUND
    assert refusal(held.read_values).reason is Reason.SESSION_NOT_FOUND
    assert refusal(store.create, "a", spec_of(), [inline("w", 2)]).reason is Reason.SESSION_EXISTS


def test_limits_refuse_before_anything_is_made() -> None:
    store = Store(NumpyBackend(), Limits(max_sessions=1, max_session_bytes=100, max_tensors=2))
    error = refusal(store.create, "a", spec_of(Adam()), [inline("w", 9)])
    assert (error.reason, error.metadata["limit"]) == (Reason.LIMIT_EXCEEDED, "max_session_bytes")
    many = [inline(f"w{i}", 1) for i in range(3)]
    assert refusal(store.create, "a", spec_of(), many).metadata["limit"] == "max_tensors"
    store.create("a", spec_of(Adam()), [inline("w", 8)])
    assert refusal(store.create, "b", spec_of(), [inline("w", 1)]).metadata["limit"] == "max_sessions"
    assert len(store) == 1


@pytest.mark.parametrize("initializer", [Normal(), Uniform(), Orthogonal(), He()], ids=repr)
def test_first_values_are_the_same_on_every_backend(initializer: Initializer) -> None:
    filled = [ParameterInit("w", F32, (5, 7), initializer)]
    drawn = [
        Store(backend).create("s", spec_of(), filled, 3).read_values()
        for backend in (NumpyBackend(), NumbaBackend())
    ]
    assert bytes(drawn[0].buffer) == bytes(drawn[1].buffer)


def test_a_tensor_that_cannot_be_filled_so() -> None:
    store = Store(NumpyBackend())
    error = refusal(
        store.create, "a", spec_of(), [inline("v", 1), ParameterInit("w", F32, (3,), Orthogonal())]
    )
    assert (error.reason, error.field) == (Reason.SHAPE_MISMATCH, "parameters[1].initializer")
    assert len(store) == 0


def test_a_parameter_named_twice() -> None:
    store = Store(NumpyBackend())
    error = refusal(store.create, "a", spec_of(), [inline("w", 2), inline("w", 3)])
    assert (error.reason, error.field) == (Reason.DUPLICATE_TENSOR, "parameters[1].name")


@pytest.mark.parametrize(
    ("groups", "reason", "field"),
    [
        ([("g", ["nothing*"])], Reason.UNKNOWN_TENSOR, "spec.groups[0].tensors[0]"),
        ([("g", ["a"]), ("h", ["b", "*"])], Reason.DUPLICATE_TENSOR, "spec.groups[1].tensors[1]"),
        ([("g", ["a"]), ("g", ["b"])], Reason.CONFLICTING_FIELDS, "spec.groups[1].name"),
    ],
)
def test_wrong_groups(groups: list[tuple[str, list[str]]], reason: Reason, field: str) -> None:
    made = tuple(ParameterGroup(name=name, tensors=tuple(tensors)) for name, tensors in groups)
    start = {"a": np.ones(1), "b": np.ones(1)}
    error = refusal(session_of, spec_of(groups=made), start)
    assert (error.reason, error.field) == (reason, field)


def test_layout_puts_wider_types_first_then_groups_as_given() -> None:
    groups = (ParameterGroup(name="g", tensors=("x*",)),)
    start = {"x1": np.ones(2, F32), "a": np.ones((2, 3)), "b": np.ones(1, F32), "x[2]": np.ones(4, F32)}
    layout = session_of(spec_of(groups=groups), start).layout
    assert [(e.name, e.start, e.byte_offset) for e in layout.entries] == [
        ("a", 0, 0),
        ("b", 0, 48),
        ("x1", 1, 52),
        ("x[2]", 3, 60),
    ]
    assert layout.byte_count == 28 + 48


def test_initializers_depend_on_seed_and_name_alone() -> None:
    store = Store(NumpyBackend())

    def draw(names: list[str], seed: int) -> dict[str, np.ndarray[Any, Any]]:
        inits = [ParameterInit(name, F64, (3,), Normal()) for name in names]
        return parameters(store.create("", spec_of(), inits, seed))

    one, two, other = draw(["a", "b"], 1), draw(["b", "a"], 1), draw(["a"], 2)
    for name in ("a", "b"):
        np.testing.assert_array_equal(one[name], two[name])
    assert not np.array_equal(one["a"], one["b"])
    assert not np.array_equal(one["a"], other["a"])


def test_uploads_make_a_session_ready() -> None:
    store = Store(NumpyBackend())
    session = store.create("", spec_of(), [inline("a", 2), ParameterInit("b", F64, (2,), None)])
    assert not session.ready
    error = refusal(step, session, {"a": np.ones(2)})
    assert (error.reason, error.metadata["tensor"]) == (Reason.PARAMETERS_PENDING, "b")
    staging = session.allocate_staging(["b"], np.dtype(np.float16))
    staging.buffer[:] = np.array([1.5, -2], np.float16).view(np.uint8)
    session.assign_parameters(staging)
    assert session.ready
    np.testing.assert_array_equal(parameters(session)["b"], [1.5, -2])


def test_a_push_of_the_parameters_own_type_takes_no_memory_beside_its_staging() -> None:
    session = session_of(spec_of(), {"w": np.zeros(100_000, np.float32)})
    staging = session.allocate_staging(None, None)
    tracemalloc.start()
    try:
        session.assign_parameters(staging)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < staging.byte_count / 4


def test_a_push_keeps_state_unless_told_otherwise() -> None:
    start = {"w": np.ones(3)}
    gradient = {"w": np.array([1.0, 2.0, 3.0])}
    spec = spec_of(Adam(), weight_average=WeightAverageSpec(decay=0.5))
    sessions = [session_of(spec, start) for _ in range(3)]
    for session, reset in zip(sessions, (None, False, True), strict=True):
        step(session, gradient)
        if reset is not None:
            staging = session.allocate_staging(None, None)
            staging.buffer[:] = session.read_values().buffer
            session.assign_parameters(staging, expected_step=1, reset_state=reset)
        step(session, gradient)
    untouched, kept, restarted = (parameters(session)["w"] for session in sessions)
    np.testing.assert_array_equal(untouched, kept)
    assert not np.array_equal(untouched, restarted)
    staging = sessions[0].allocate_staging(None, None)
    error = refusal(lambda: sessions[0].assign_parameters(staging, expected_step=7))
    assert (error.reason, error.field) == (Reason.STEP_MISMATCH, "header.expected_step")


@pytest.mark.parametrize("wire", [np.float16, np.float32, np.float64])
def test_values_in_another_dtype_and_in_layout_order(wire: Any) -> None:
    session = session_of(spec_of(), {"a": np.array([0.1, 0.2]), "b": np.array([1 / 3])})
    values = session.read_values(["b", "a"], np.dtype(wire))
    assert [t.entry.name for t in values.tensors] == ["a", "b"]
    np.testing.assert_array_equal(values.array(1), np.array([1 / 3]).astype(wire))


def test_names_are_checked_when_staged() -> None:
    session = session_of(spec_of(), {"a": np.ones(2)})
    unknown = refusal(session.allocate_staging, ["a", "x"], None)
    assert (unknown.reason, unknown.field) == (Reason.UNKNOWN_TENSOR, "tensors[1]")
    twice = refusal(session.allocate_staging, ["a", "a"], None)
    assert (twice.reason, twice.field) == (Reason.DUPLICATE_TENSOR, "tensors[1]")
    shape = refusal(step, session, {"a": np.ones((2, 1))})
    assert (shape.reason, shape.field) == (Reason.SHAPE_MISMATCH, "gradients[0].tensor.shape")
    assert shape.metadata == {"tensor": "a", "expected": "[2]", "actual": "[2,1]"}


def test_empty_tensors_take_no_part() -> None:
    start = {"none": np.ones((0, 3)), "w": np.ones(2)}
    session = session_of(spec_of(), start)
    result = step(session, {"none": np.ones((0, 3)), "w": np.ones(2)}, per_tensor_norms=True)
    assert result.step == 1
    assert parameters(session)["none"].shape == (0, 3)


def test_what_a_narrower_dtype_cannot_hold_becomes_infinite() -> None:
    session = session_of(spec_of(), {"a": np.array([1e10, -1e300]), "b": np.ones(1, F32)})
    half = parameters(session, tensors=["a"], dtype=np.dtype(np.float16))["a"]
    np.testing.assert_array_equal(half, [np.inf, -np.inf])
    staging = session.allocate_staging(["b"], F64)
    staging.buffer[:] = np.array([1e300]).view(np.uint8)
    session.assign_parameters(staging)
    np.testing.assert_array_equal(parameters(session)["b"], [np.inf])
