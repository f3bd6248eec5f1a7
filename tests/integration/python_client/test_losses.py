"""Losses through the client: weights of examples and classes, reductions, boxes."""

from __future__ import annotations

import numpy as np
import pytest

import optserve
from optserve import LossReduction, losses

P, Y = np.array([[1.0, 2.0], [3.0, 5.0]]), np.ones((2, 2))
WEIGHTED_MEAN = LossReduction.MEAN_WITH_SAMPLE_WEIGHT


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sample_weights(client, dtype):
    weights = np.array([2, 0.5], dtype)
    loss = losses.Huber(delta=1.5, reduction=WEIGHTED_MEAN)
    found = client.loss(loss, P.astype(dtype), Y.astype(dtype), sample_weight=weights, per_example=True)
    each = np.array([0.5 / 2, (1.5 * 2 - 1.125 + 1.5 * 4 - 1.125) / 2])
    np.testing.assert_allclose(found.per_example, each * weights, rtol=1e-6)
    assert found.value == pytest.approx((each * weights).sum() / 2.5)
    np.testing.assert_allclose(found.gradient, np.array([[0, 1], [0.375, 0.375]]) / 2.5, rtol=1e-6)


def test_class_weights(client):
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=True, class_weights=[1, 3], reduction=WEIGHTED_MEAN
    )
    found = client.loss(loss, np.zeros((2, 2)), np.array([0, 1]))
    assert found.value == pytest.approx(np.log(2))
    np.testing.assert_allclose(found.gradient, np.array([[-0.5, 0.5], [1.5, -1.5]]) / 4)


def test_boxes_that_agree_lose_nothing(client):
    boxes = np.array([[0.0, 0.0, 2.0, 1.0], [1.0, 1.0, 4.0, 3.0]])
    for loss in (losses.IoU(), losses.GIoU(), losses.DIoU(), losses.CIoU()):
        assert client.loss(loss, boxes, boxes).value == pytest.approx(0, abs=1e-7)


def test_weights_that_do_not_fit_are_refused_by_name(client):
    with pytest.raises(optserve.OptserveError) as caught:
        client.loss(losses.MeanAbsoluteError(), P, Y, sample_weight=[1.0, 2.0, 3.0])
    assert caught.value.reason is optserve.Reason.SHAPE_MISMATCH
    assert caught.value.field == "sample_weight"
