"""Losses against class indices: what is ignored, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention
from optserve_server.losses.base import Reduction
from optserve_server.losses.class_indices import ClassIndexLoss
from optserve_server.losses.classification.nll import NLL
from optserve_server.losses.classification.sparse_categorical_crossentropy import (
    SparseCategoricalCrossentropy,
)
from optserve_server.losses.margin.multi_margin import MultiMargin
from optserve_server.losses.margin.multilabel_margin import MultilabelMargin

IGNORING: list[Any] = [
    NLL(ignore_class=7),
    SparseCategoricalCrossentropy(ignore_class=7, from_logits=True),
    SparseCategoricalCrossentropy(ignore_class=7, label_smoothing=0.5),
]


@pytest.mark.parametrize("loss", IGNORING, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ignored_examples_count_nowhere_whatever_they_hold(loss: ClassIndexLoss, dtype: Any) -> None:
    p = np.array([[0.25, 0.75], [math.nan, math.inf], [0.5, 0.5]], dtype)
    y, weights = np.array([1, 7, 0]), np.array([2.0, math.nan, 3.0], dtype)
    others, own, own_weights = p[[0, 2]], y[[0, 2]], weights[[0, 2]]
    assert loss.count_ignored(y) == 1
    for given, others_given in ((None, None), (weights, own_weights)):
        each = loss.per_example(p, y, given)
        assert each.dtype == dtype
        assert each.tolist() == [*loss.per_example(others, own, others_given)[:1], 0, each[2]]
        for how in Reduction:
            rest = loss.reduce(loss.per_example(others, own, others_given), own, how, others_given)
            assert loss.reduce(each, y, how, given) == (None if rest is None else pytest.approx(rest))
            slope = loss.gradient(p, y, how, given)
            assert slope.dtype == dtype
            assert slope[1].tolist() == [0, 0]
            assert slope[[0, 2]] == pytest.approx(loss.gradient(others, own, how, others_given))


@pytest.mark.parametrize("loss", IGNORING, ids=repr)
def test_a_batch_of_ignored_examples_is_no_loss(loss: ClassIndexLoss) -> None:
    p, y = np.full((2, 2), 0.5), np.array([7, 7])
    for how in set(Reduction) - {Reduction.NONE}:
        assert loss.reduce(loss.per_example(p, y), y, how) == 0
        assert not loss.gradient(p, y, how).any()


def test_pytorch_ignores_minus_100_and_keras_nothing() -> None:
    for kind in (NLL, SparseCategoricalCrossentropy):
        assert kind.resolve({}, Convention.TORCH).ignore_class == -100
        for convention in (Convention.KERAS, Convention.OPTAX, Convention.LECTURE):
            assert kind.resolve({}, convention).ignore_class is None


@pytest.mark.parametrize("loss", [*IGNORING, NLL(), MultiMargin()], ids=repr)
def test_indices_that_do_not_fit_are_refused(loss: ClassIndexLoss) -> None:
    p = np.zeros((2, 3))
    for y, reason in (
        (np.array([0, 3]), Reason.OUT_OF_RANGE),
        (np.array([-1, 0]), Reason.OUT_OF_RANGE),
        (np.array([0]), Reason.SHAPE_MISMATCH),
        (np.array([0.0, 1.0]), Reason.DTYPE_MISMATCH),
    ):
        with pytest.raises(DomainError) as caught:
            loss.per_example(p, y)
        assert (caught.value.reason, caught.value.field) == (reason, "target")


def test_labels_end_at_the_first_that_is_negative() -> None:
    loss, p = MultilabelMargin(), np.array([[0.0, 2.0, 0.5]])
    assert loss.per_example(p, np.array([[1, -1, 99]])).tolist() == [0]
    with pytest.raises(DomainError) as caught:
        loss.per_example(p, np.array([[1, 99, -1]]))
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "target")


def test_a_label_given_twice_counts_twice_as_in_pytorch() -> None:
    loss, p = MultilabelMargin(), np.array([[0.0, 0.25, 0.5]])
    once = loss.per_example(p, np.array([[1, -1, -1]]))
    assert loss.per_example(p, np.array([[1, 1, -1]])) == pytest.approx(2 * once)
