"""Sparse rows: which rows move, by how much, and what is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.lamb import LAMB
from optserve_server.optimizers.muon import Muon
from optserve_server.optimizers.prodigy import Prodigy
from optserve_server.optimizers.sgd import SGD
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.session_spec import (
    ClipByGlobalNorm,
    ClipByTensorNorm,
    GradientSpec,
    NonFinitePolicy,
    SparseUpdate,
    WeightAverageSpec,
)
from optserve_server.state.sparse_rows import NamedRows, sum_duplicates
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions, StepOutcome, StepResult
from tests.service.sessions.support import CountingBackend, parameters, session_of, spec_of, step

Array = npt.NDArray[Any]

RANDOM = np.random.default_rng(3)
START: dict[str, Array] = {
    "bias": RANDOM.normal(size=3).astype(np.float32),
    "table": RANDOM.normal(size=(6, 2, 2)).astype(np.float32),
    "other": RANDOM.normal(size=(4, 3)).astype(np.float32),
}
INDICES = np.array([4, 1, 4, 0], np.int32)
VALUES = RANDOM.normal(size=(4, 2, 2)).astype(np.float32)
TOUCHED, UNTOUCHED = [0, 1, 4], [2, 3, 5]
DENSE: Array = np.zeros((6, 2, 2), np.float32)
DENSE[[0, 1, 4]] = VALUES[[3, 1, 0]]
DENSE[4] += VALUES[2]
BIAS = np.array([0.5, -0.25, 1.0], np.float32)


def make(
    sparse: SparseUpdate, rule: Rule | None = None, backend: Backend | None = None, **fields: Any
) -> Session:
    gradient = GradientSpec(sparse=sparse, **fields.pop("gradient", {}))
    store = None if backend is None else Store(backend)
    return session_of(spec_of(rule, gradient=gradient, **fields), START, store)


def rows(indices: Any = INDICES, values: Any = VALUES, name: str = "table") -> NamedRows:
    return NamedRows(name, np.asarray(indices), np.asarray(values))


def sparse_step(session: Session, *sparse: NamedRows, **options: Any) -> StepResult:
    staging = session.stage_arrays([], sparse or [rows()])
    return session.take_step(staging, StepOptions(**options))


def state(session: Session, name: str = "table") -> dict[str, Array]:
    """A tensor's parameters and slots."""
    entry = session.layout[name]
    partition = session.arenas.partitions[entry.dtype, entry.group]
    place = slice(entry.start - partition.start, entry.stop - partition.start)
    return {slot: array[place].reshape(entry.shape).copy() for slot, array in partition.arrays.items()}


@pytest.fixture(params=[NumpyBackend, NumbaBackend], ids=["numpy", "numba"])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param()
    return made


@pytest.mark.parametrize("rule", [SGD(learning_rate=0.1), Adam(), AdamW()], ids=lambda rule: rule.name)
def test_lazy_rows_get_the_bits_of_the_dense_step_and_the_others_stay(rule: Rule, backend: Backend) -> None:
    lazy, dense = make(SparseUpdate.LAZY, rule, backend), make(SparseUpdate.LAZY, rule, backend)
    for _ in range(3):
        sparse_step(lazy)
        step(dense, {"table": DENSE})
    for slot, array in state(lazy).items():
        assert np.array_equal(array[TOUCHED], state(dense)[slot][TOUCHED]), slot
        first = START["table"][UNTOUCHED] if slot == "p" else np.zeros((3, 2, 2), np.float32)
        assert np.array_equal(array[UNTOUCHED], first), slot
    assert not np.array_equal(state(lazy)["p"][TOUCHED], START["table"][TOUCHED])
    for name in ("bias", "other"):
        assert np.array_equal(parameters(lazy)[name], START[name])


def test_a_lazy_row_that_rests_keeps_its_state_while_the_session_counts() -> None:
    """Adam by hand: the moments of row 4 rest during the second step, t advances."""
    session = make(SparseUpdate.LAZY, Adam(learning_rate=0.1, beta1=0.5, beta2=0.75, epsilon=0.01))
    one = np.ones((1, 2, 2))
    for index in (4, 0, 4):
        sparse_step(session, rows([index], one))
    p, m, v = float(START["table"][4, 0, 0]), 0.0, 0.0
    for t in (1, 3):
        m, v = 0.5 * m + 0.5, 0.75 * v + 0.25
        p -= 0.1 * (1 - 0.75**t) ** 0.5 / (1 - 0.5**t) * m / (v**0.5 + 0.01)
    assert state(session)["p"][4, 0, 0] == pytest.approx(p, rel=1e-6)
    assert session.step == 3


def test_dense_is_the_step_of_the_dense_gradient(backend: Backend) -> None:
    guards = {"gradient": {"l2": 0.1, "clip": ClipByGlobalNorm(max_norm=0.5)}}
    sparse = make(SparseUpdate.DENSE, AdamW(), backend, **guards)
    dense = make(SparseUpdate.DENSE, AdamW(), backend, **guards)
    for _ in range(3):
        assert sparse_step(sparse, loss_scale=4.0) == step(dense, {"table": DENSE}, loss_scale=4.0)
    for slot, array in state(sparse).items():
        assert np.array_equal(array, state(dense)[slot])
    assert not np.array_equal(state(sparse)["p"][UNTOUCHED], START["table"][UNTOUCHED])


def test_duplicates_are_added_as_they_were_sent_in_the_parameters_type() -> None:
    big = np.float32(2**24)
    values = np.array([[big], [1.0], [1.0], [-big], [-0.0]])
    found, total = sum_duplicates(NamedRows("t", np.array([7, 7, 7, 7, 2]), values), np.dtype(np.float32))
    assert found.tolist() == [2, 7]
    assert total.ravel().tolist() == [0.0, 0.0]  # 2**24 + 1 is 2**24 in float32, twice
    assert np.signbit(total[0, 0])
    assert (
        sum_duplicates(NamedRows("t", np.array([7, 7, 7, 7, 2]), values), np.dtype(np.float64))[1][1, 0]
        == 2.0
    )


@pytest.mark.parametrize("sparse", SparseUpdate)
def test_narrow_values_and_dense_tensors_beside_them(sparse: SparseUpdate) -> None:
    session, plain = make(sparse), make(sparse)
    narrow = VALUES.astype(ml_dtypes.bfloat16)
    staging = session.stage_arrays(
        [NamedArray("bias", BIAS)], [rows(values=narrow), rows([3], np.ones((1, 3)), "other")]
    )
    result = session.take_step(staging, StepOptions(per_tensor_norms=True))
    wide: Array = np.zeros((6, 2, 2), np.float32)
    np.add.at(wide, INDICES, narrow.astype(np.float32))
    other: Array = np.zeros((4, 3), np.float32)
    other[3] = 1
    expected = step(plain, {"bias": BIAS, "table": wide, "other": other}, per_tensor_norms=True)
    assert dict(result.tensor_norms) == pytest.approx(dict(expected.tensor_norms))
    assert result.gradient_norm == pytest.approx(expected.gradient_norm)
    for name, array in parameters(session).items():
        assert np.array_equal(array, parameters(plain)[name])


@pytest.mark.parametrize("clip", [ClipByTensorNorm(max_norm=0.5), ClipByGlobalNorm(max_norm=0.5)])
def test_guards_are_those_of_the_rows_given(clip: Any) -> None:
    """SGD at rate 0.1: scale divided out, l2 of the rows, clipped, decayed."""
    fields: dict[str, Any] = {"gradient": {"l2": 0.1, "clip": clip}, "decoupled_weight_decay": 0.5}
    session = make(SparseUpdate.LAZY, **fields)
    result = sparse_step(session, loss_scale=2.0)
    p = START["table"][TOUCHED].astype(np.float64)
    g = DENSE[TOUCHED] / 2 + 0.1 * p
    norm = float(np.sqrt((g**2).sum()))
    assert norm > 0.5
    assert (result.gradient_norm, result.clipped_gradient_norm) == pytest.approx((norm, 0.5))
    assert result.regularization_penalty == pytest.approx(0.1 * (p**2).sum() / 2)
    expected = p * (1 - 0.1 * 0.5) - 0.1 * g * 0.5 / norm
    np.testing.assert_allclose(state(session)["p"][TOUCHED], expected, rtol=1e-5)
    assert np.array_equal(state(session)["p"][UNTOUCHED], START["table"][UNTOUCHED])


def test_one_kernel_call_for_the_rows() -> None:
    backend = CountingBackend()
    session = make(SparseUpdate.LAZY, Adam(), backend)
    backend.writes = backend.reads = 0
    sparse_step(session)
    assert (backend.writes, backend.reads) == (1, 1)


@pytest.mark.parametrize("sparse", SparseUpdate)
def test_no_rows_are_a_step_too(sparse: SparseUpdate) -> None:
    session = make(sparse)
    result = sparse_step(session, rows(np.zeros(0, np.int64), np.zeros((0, 2, 2))))
    assert (result.outcome, result.gradient_norm, session.step) == (StepOutcome.APPLIED, 0.0, 1)
    assert np.array_equal(state(session)["p"], START["table"])


@pytest.mark.parametrize("sparse", SparseUpdate)
def test_a_step_is_taken_once(sparse: SparseUpdate) -> None:
    session = make(sparse)
    first = sparse_step(session, worker="a", sequence=1)
    moved = state(session)["p"]
    again = sparse_step(session, worker="a", sequence=1)
    assert (again.replayed, again.step) == (True, first.step)
    # Rows differ if what was sent differs, whatever they add up to.
    for other in (
        rows(INDICES[::-1]),
        rows(values=VALUES * 2),
        rows(INDICES.astype(np.int64)),
        rows([0, 1, 4], DENSE[TOUCHED]),
    ):
        with pytest.raises(DomainError) as refused:
            sparse_step(session, other, worker="a", sequence=1)
        assert refused.value.reason is Reason.SEQUENCE_REUSED
    assert np.array_equal(state(session)["p"], moved)


def test_a_repeat_is_known_after_the_meaning_of_rows_changed() -> None:
    session = make(SparseUpdate.LAZY)
    sparse_step(session, worker="a", sequence=1)
    session.update_spec(spec_of(gradient=GradientSpec(sparse=SparseUpdate.DENSE)))
    assert sparse_step(session, worker="a", sequence=1).replayed


WRONG: list[tuple[NamedRows, Reason, str, dict[str, str]]] = [
    (rows([0, 6, 7, 1]), Reason.OUT_OF_RANGE, "indices", {"index": "6", "range": "in [0, 6)"}),
    (rows([0, 1, 2, -1]), Reason.OUT_OF_RANGE, "indices", {"index": "-1"}),
    (rows(INDICES[:, None]), Reason.SHAPE_MISMATCH, "indices.shape", {"expected": "[k]"}),
    (
        rows(values=VALUES[:3]),
        Reason.SHAPE_MISMATCH,
        "values.shape",
        {"expected": "[4,2,2]", "actual": "[3,2,2]"},
    ),
    (rows(values=VALUES[:, 0]), Reason.SHAPE_MISMATCH, "values.shape", {"actual": "[4,2]"}),
    (rows(name="tabel"), Reason.UNKNOWN_TENSOR, "name", {"tensor": "tabel"}),
]


@pytest.mark.parametrize(("given", "reason", "field", "metadata"), WRONG)
def test_wrong_rows(given: NamedRows, reason: Reason, field: str, metadata: dict[str, str]) -> None:
    session = make(SparseUpdate.LAZY)
    fine = rows([0], np.ones((1, 3)), "other")
    with pytest.raises(DomainError) as refused:
        session.stage_arrays([], [fine, given])
    assert (refused.value.reason, refused.value.field) == (reason, f"sparse_gradients[1].{field}")
    assert metadata.items() <= refused.value.metadata.items()


def test_a_scalar_has_no_rows() -> None:
    session = session_of(spec_of(), {"s": np.array(1.0)})
    with pytest.raises(DomainError) as refused:
        session.stage_arrays([], [rows([0], [1.0], "s")])
    assert (refused.value.reason, refused.value.field) == (
        Reason.SHAPE_MISMATCH,
        "sparse_gradients[0].name",
    )


def test_a_tensor_is_given_once() -> None:
    session = make(SparseUpdate.LAZY)
    for dense, sparse, field in (
        ([NamedArray("table", DENSE)], [rows()], "sparse_gradients[0].name"),
        ([], [rows(), rows()], "sparse_gradients[1].name"),
    ):
        with pytest.raises(DomainError) as refused:
            session.stage_arrays(dense, sparse)
        assert (refused.value.reason, refused.value.field) == (Reason.DUPLICATE_TENSOR, field)


@pytest.mark.parametrize("sparse", SparseUpdate)
def test_rows_that_are_not_finite(sparse: SparseUpdate) -> None:
    bad = VALUES.copy()
    bad[1, 0, 1] = np.nan
    session = make(sparse)
    with pytest.raises(DomainError) as refused:
        sparse_step(session, rows(values=bad))
    error = refused.value
    assert (error.reason, error.field) == (Reason.NON_FINITE_GRADIENT, "sparse_gradients[0].values.data")
    assert error.metadata == {"tensor": "table", "count": "1"}
    skipping = make(sparse, gradient={"non_finite": NonFinitePolicy.SKIP})
    # What the parameter's type cannot hold is as bad.
    huge = VALUES.astype(np.float64) * 1e300
    assert sparse_step(skipping, rows(values=huge)).outcome is StepOutcome.SKIPPED
    for of in (session, skipping):
        assert (of.step, np.array_equal(state(of)["p"], START["table"])) == (0, True)


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"gradient": {"accumulation_steps": 2}}, "spec.gradient.accumulation_steps"),
    ({"weight_average": WeightAverageSpec()}, "spec.weight_average"),
    ({"rule": LAMB()}, "optimizer.lamb"),
    ({"rule": Prodigy()}, "optimizer.prodigy"),
    ({"rule": Muon()}, "optimizer.muon"),
]


@pytest.mark.parametrize(("fields", "conflict"), CONFLICTS, ids=lambda value: str(value)[-24:])
def test_rows_cannot_move_alone_beside(fields: dict[str, Any], conflict: str) -> None:
    session = make(SparseUpdate.LAZY, **fields)
    with pytest.raises(DomainError) as refused:
        sparse_step(session)
    error = refused.value
    assert (error.reason, error.field) == (Reason.CONFLICTING_FIELDS, "sparse_gradients")
    assert error.metadata == {"tensor": "table", "conflict": conflict}
    assert (session.step, session.accumulated) == (0, 0)


@pytest.mark.parametrize(("fields", "conflict"), CONFLICTS, ids=lambda value: str(value)[-24:])
def test_dense_takes_rows_beside(fields: dict[str, Any], conflict: str) -> None:
    sparse, dense = make(SparseUpdate.DENSE, **fields), make(SparseUpdate.DENSE, **fields)
    rest = {"bias": BIAS, "other": np.ones((4, 3), np.float32)}
    for _ in range(4):
        staging = sparse.stage_arrays([NamedArray(name, a) for name, a in rest.items()], [rows()])
        assert sparse.take_step(staging, StepOptions()) == step(dense, {**rest, "table": DENSE})
    for name, array in parameters(sparse).items():
        assert np.array_equal(array, parameters(dense)[name])


def test_what_rows_mean_by_convention() -> None:
    by = {c: GradientSpec.resolve({}, c).sparse for c in Convention}
    assert {c for c, sparse in by.items() if sparse is SparseUpdate.LAZY} == {Convention.TORCH}
