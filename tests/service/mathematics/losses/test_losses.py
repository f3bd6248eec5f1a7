"""Losses: values, gradients, reductions, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.losses.base import Loss, Reduction, reduce_losses
from optserve_server.losses.classification.categorical_crossentropy import CategoricalCrossentropy
from optserve_server.losses.classification.sparse_categorical_crossentropy import (
    SparseCategoricalCrossentropy,
)
from optserve_server.losses.regression.mean_squared_error import MeanSquaredError
from tests.service.mathematics.differences import numeric_gradient

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)
SHAPE = (3, 4, 2)
LOGITS = RNG.normal(size=SHAPE) * 3
POSITIVE = RNG.uniform(0.1, 2, SHAPE)  # probabilities still to be renormalised
DISTRIBUTIONS = RNG.dirichlet(np.ones(2), SHAPE[:2])
ANY = RNG.normal(size=SHAPE)
LAST, MIDDLE = RNG.integers(0, 2, (3, 4)), RNG.integers(0, 4, (3, 2), dtype=np.int32)

CASES: list[tuple[Loss, Array, Array]] = [
    (MeanSquaredError(), LOGITS, ANY),
    (CategoricalCrossentropy(), POSITIVE, DISTRIBUTIONS),
    (CategoricalCrossentropy(label_smoothing=0.2), POSITIVE, DISTRIBUTIONS),
    (CategoricalCrossentropy(axis=0, label_smoothing=0.2), POSITIVE, DISTRIBUTIONS),
    (CategoricalCrossentropy(from_logits=True), LOGITS, DISTRIBUTIONS),
    (CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, axis=1), LOGITS, DISTRIBUTIONS),
    (CategoricalCrossentropy(from_logits=True), LOGITS, ANY),  # targets that do not sum to 1
    (SparseCategoricalCrossentropy(), POSITIVE, LAST),
    (SparseCategoricalCrossentropy(from_logits=True), LOGITS, LAST),
    (SparseCategoricalCrossentropy(axis=1), POSITIVE, MIDDLE),
    (SparseCategoricalCrossentropy(from_logits=True, axis=-2), LOGITS, MIDDLE),
]


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize(("loss", "prediction", "target"), CASES)
def test_the_gradient_is_the_derivative(
    loss: Loss, prediction: Array, target: Array, reduction: Reduction
) -> None:
    def value(prediction: Array) -> float:
        per_example = loss.per_example(prediction, target)
        reduced = reduce_losses(per_example, reduction)
        return float(per_example.sum()) if reduced is None else reduced

    gradient = loss.gradient(prediction, target, reduction)
    assert gradient == pytest.approx(numeric_gradient(value, prediction), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("loss", "prediction", "target"), CASES)
def test_float32_gives_float32_near_float64(loss: Loss, prediction: Array, target: Array) -> None:
    p = prediction.astype(np.float32)
    t = target if target.dtype.kind == "i" else target.astype(np.float32)
    values, gradient = loss.per_example(p, t), loss.gradient(p, t, Reduction.SUM)
    assert (values.dtype, gradient.dtype, gradient.shape) == (np.float32, np.float32, p.shape)
    assert values == pytest.approx(loss.per_example(prediction, target), rel=1e-5, abs=1e-5)
    assert gradient == pytest.approx(loss.gradient(prediction, target, Reduction.SUM), rel=1e-5, abs=1e-5)


def test_worked_values() -> None:
    p = np.array([[1.0, 2.0], [4.0, 6.0]])
    assert MeanSquaredError().per_example(p, np.zeros((2, 2))).tolist() == [2.5, 26.0]
    quarter = np.array([[1.0, 3.0]])
    one_hot, smoothing = np.array([[1.0, 0.0]]), 0.5
    assert CategoricalCrossentropy().per_example(quarter, one_hot) == pytest.approx([math.log(4)])
    smooth = CategoricalCrossentropy(label_smoothing=smoothing).per_example(quarter, one_hot)
    assert smooth == pytest.approx([0.75 * math.log(4) + 0.25 * math.log(4 / 3)], rel=1e-14)
    logits = np.log(quarter) + 500
    assert CategoricalCrossentropy(from_logits=True).per_example(logits, one_hot) == pytest.approx(
        [math.log(4)]
    )


@pytest.mark.parametrize("from_logits", [False, True])
def test_the_sparse_form_is_the_dense_one_with_one_hot_targets(from_logits: bool) -> None:
    one_hot = np.eye(4)[MIDDLE].transpose(0, 2, 1)
    sparse = SparseCategoricalCrossentropy(from_logits=from_logits, axis=1)
    dense = CategoricalCrossentropy(from_logits=from_logits, axis=1)
    assert np.array_equal(sparse.per_example(POSITIVE, MIDDLE), dense.per_example(POSITIVE, one_hot))
    assert np.array_equal(
        sparse.gradient(POSITIVE, MIDDLE, Reduction.SUM), dense.gradient(POSITIVE, one_hot, Reduction.SUM)
    )


def test_clipped_probabilities_have_no_slope() -> None:
    p, y = np.array([[1e-9, 1.0], [0.5, 0.5]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert CategoricalCrossentropy().per_example(p, y) == pytest.approx([-math.log(1e-7), math.log(2)])
    gradient = CategoricalCrossentropy().gradient(p, y, Reduction.SUM)
    assert gradient.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    logits = np.array([[3e4, -3e4, 0.0], [-math.inf, 0.0, 0.0]], np.float32)
    loss = SparseCategoricalCrossentropy(from_logits=True)
    assert loss.per_example(logits, np.array([1, 2])) == pytest.approx([6e4, math.log(2)])
    assert loss.gradient(logits, np.array([1, 2]), Reduction.SUM).tolist() == [[1, -1, 0], [0, 0.5, -0.5]]


def test_reductions() -> None:
    per_example = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    assert reduce_losses(per_example, Reduction.SUM) == 12.0
    assert reduce_losses(per_example, Reduction.SUM_OVER_BATCH_SIZE) == 3.0
    assert reduce_losses(per_example, Reduction.NONE) is None
    assert reduce_losses(per_example[:0], Reduction.SUM_OVER_BATCH_SIZE) == 0.0


def test_sums_are_taken_in_float64() -> None:
    many = RNG.uniform(0.1, 1, 100_003).astype(np.float32)
    exact = math.fsum(float(x) for x in many)
    assert reduce_losses(many, Reduction.SUM) == pytest.approx(exact, rel=1e-12)
    assert float(many.sum()) != pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "loss", [MeanSquaredError(), CategoricalCrossentropy(), CategoricalCrossentropy(from_logits=True)]
)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_lost_on_nothing(loss: Loss, shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    assert np.array_equal(loss.per_example(empty, empty), np.zeros(shape[0]))
    assert loss.gradient(empty, empty, Reduction.SUM_OVER_BATCH_SIZE).shape == shape


P = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "reason", "field"),
    [
        (MeanSquaredError(), P, np.zeros((3, 2), np.float32), Reason.SHAPE_MISMATCH, "target"),
        (MeanSquaredError(), P, np.zeros(3, np.float32), Reason.SHAPE_MISMATCH, "target"),
        (MeanSquaredError(), P, P.astype(np.float64), Reason.DTYPE_MISMATCH, "target"),
        (MeanSquaredError(), P.astype(np.float16), P.astype(np.float16), Reason.DTYPE_MISMATCH, "prediction"),
        (MeanSquaredError(), P[0, 0].reshape(()), P[0, 0].reshape(()), Reason.SHAPE_MISMATCH, "prediction"),
        (CategoricalCrossentropy(axis=2), P, P, Reason.OUT_OF_RANGE, "axis"),
        (CategoricalCrossentropy(), P, np.zeros(2, np.int64), Reason.SHAPE_MISMATCH, "target"),
        (SparseCategoricalCrossentropy(axis=-3), P, np.zeros(2, np.int64), Reason.OUT_OF_RANGE, "axis"),
        (SparseCategoricalCrossentropy(), P, np.array([0, 3]), Reason.OUT_OF_RANGE, "target"),
        (SparseCategoricalCrossentropy(), P, np.array([-1, 0]), Reason.OUT_OF_RANGE, "target"),
        (SparseCategoricalCrossentropy(), P, np.array([0, 1, 2]), Reason.SHAPE_MISMATCH, "target"),
        (SparseCategoricalCrossentropy(), P, np.array([[0], [1]]), Reason.SHAPE_MISMATCH, "target"),
        (SparseCategoricalCrossentropy(), P, np.array([0.0, 1.0]), Reason.DTYPE_MISMATCH, "target"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    loss: Loss, prediction: Array, target: Array, reason: Reason, field: str
) -> None:
    with pytest.raises(DomainError) as caught:
        loss.per_example(prediction, target)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    with pytest.raises(DomainError) as again:
        loss.gradient(prediction, target, Reduction.SUM)
    assert again.value.field == field
