"""Losses of several predictions of one example: shapes, refusals, and where slopes jump."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.losses.base import Reduction
from optserve_server.losses.embedding.cosine_embedding import CosineEmbedding
from optserve_server.losses.embedding.triplet_margin import TripletMargin
from optserve_server.losses.likelihood.gaussian_nll import GaussianNLL
from optserve_server.losses.ranking.margin_ranking import MarginRanking
from optserve_server.losses.stacked import StackedLoss

SHAPES: list[tuple[StackedLoss, tuple[int, ...], tuple[int, ...]]] = [
    (GaussianNLL(), (3, 2, 5), (3, 5)),
    (MarginRanking(), (3, 2, 5), (3, 5)),
    (CosineEmbedding(), (3, 2, 5), (3,)),
    (TripletMargin(), (3, 3, 5), (0,)),
]


@pytest.mark.parametrize(("loss", "shape", "target"), SHAPES, ids=repr)
def test_every_part_has_a_gradient_and_every_example_a_loss(
    loss: StackedLoss, shape: tuple[int, ...], target: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(2)
    for lead in ((), (4,)):
        p = rng.uniform(0.5, 2, lead + shape).astype(np.float32)
        y = np.ones(target if target == (0,) else lead + target, np.float32)
        assert loss.per_example(p, y).shape == (*lead, 3)
        gradient = loss.gradient(p, y, Reduction.MEAN)
        assert (gradient.shape, gradient.dtype) == (p.shape, np.float32)
    alone = loss.per_example(p[0, 0], y if target == (0,) else y[0, 0])
    assert (alone.shape, alone.dtype) == ((), np.float32)


@pytest.mark.parametrize(("loss", "shape", "target"), SHAPES, ids=repr)
def test_other_shapes_are_refused(loss: StackedLoss, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    wrong: list[tuple[tuple[int, ...], tuple[int, ...], Any, str]] = [
        ((3, 4, 5), target, np.float64, "prediction"),
        ((5,), target, np.float64, "prediction"),
        (shape, (7, 7), np.float64, "target"),
        (shape, target, np.float32, "target"),
    ]
    for p, y, dtype, field in wrong:
        with pytest.raises(DomainError) as caught:
            loss.per_example(np.ones(p), np.ones(y, dtype))
        reason = Reason.DTYPE_MISMATCH if dtype is np.float32 else Reason.SHAPE_MISMATCH
        assert (caught.value.reason, caught.value.field) == (reason, field)


def test_points_that_coincide_have_no_slope_towards_each_other() -> None:
    p = np.array([[[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]]])
    for loss in (TripletMargin(margin=9.0, epsilon_in_sum=True, epsilon=1e-12), TripletMargin(margin=9.0)):
        slope = loss.gradient(p, np.zeros(0), Reduction.SUM)
        assert np.isfinite(slope).all()
        assert slope[0, 2] == pytest.approx([-0.6, -0.8])


def test_a_variance_below_epsilon_keeps_its_slope() -> None:
    """As PyTorch, which clamps it without telling autograd."""
    loss = GaussianNLL(epsilon=0.5)
    p, y = np.array([[[0.0], [0.25]]]), np.array([[1.0]])
    assert loss.per_example(p, y) == pytest.approx([(np.log(0.5) + 2) / 2])
    assert loss.gradient(p, y, Reduction.SUM).tolist() == [[[-2.0], [-1.0]]]


def test_vectors_of_no_length_are_finite() -> None:
    p, y = np.zeros((2, 2, 3)), np.array([1.0, -1.0])
    assert CosineEmbedding().per_example(p, y).tolist() == [1, 0]
    assert not CosineEmbedding().gradient(p, y, Reduction.SUM).any()
