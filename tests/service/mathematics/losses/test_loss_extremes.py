"""Losses where numbers end: infinities, certainties, boxes without extent, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.losses import REGISTRY
from optserve_server.losses.base import Loss, Reduction, reduce_losses
from optserve_server.losses.class_indices import ClassIndexLoss
from optserve_server.losses.coupled import CoupledLoss
from optserve_server.losses.segmentation.overlap_loss import OverlapLoss
from optserve_server.losses.stacked import StackedLoss
from tests.service.mathematics.differences import numeric_gradient
from tests.service.mathematics.losses.loss_cases import make_loss

Array = npt.NDArray[Any]
INF = math.inf
BOXES = ["iou", "giou", "diou", "ciou"]


def both(loss: Loss, p: Any, y: Any, dtype: Any = np.float64) -> tuple[list[Any], list[Any]]:
    prediction, target = np.array(p, dtype), np.array(y)
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    gradient = loss.gradient(prediction, target, Reduction.SUM)
    return loss.per_example(prediction, target).tolist(), gradient.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["binary_crossentropy", "binary_focal_crossentropy"])
def test_extreme_logits_are_right_or_wrong_without_overflow(name: str, dtype: Any) -> None:
    loss = make_loss(name, {"from_logits": True})
    values, slopes = both(loss, [[3e4], [-3e4], [INF], [-INF]], [[1.0], [0.0], [1.0], [0.0]], dtype)
    assert (values, slopes) == ([0, 0, 0, 0], [[0], [0], [0], [0]])
    values, slopes = both(loss, [[3e4], [-3e4], [INF]], [[0.0], [1.0], [0.0]], dtype)
    assert values == [3e4, 3e4, INF]
    assert slopes == [[1], [-1], [1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "fields", "target"),
    [
        ("categorical_crossentropy", {}, [[0.25, 0.75]]),
        ("categorical_crossentropy", {}, [[1.0, 0.0]]),
        ("categorical_crossentropy", {}, [[0.0, 0.0]]),
        ("categorical_crossentropy", {"label_smoothing": 0.1, "class_weights": (0.0, 1.0)}, [[1.0, 0.0]]),
        ("sparse_categorical_crossentropy", {}, [0]),
        ("sparse_categorical_crossentropy", {"class_weights": (0.0, 1.0)}, [0]),
        ("categorical_focal_crossentropy", {}, [[1.0, 0.0]]),
        ("categorical_focal_crossentropy", {"gamma": 0.0}, [[0.0, 0.0]]),
    ],
)
def test_logits_of_minus_infinity_alone_have_no_loss(
    name: str, fields: dict[str, Any], target: Any, dtype: Any
) -> None:
    """As PyTorch 2.13, cross_entropy with and without weights; other rows are not touched."""
    loss = make_loss(name, {**fields, "from_logits": True, "axis": -1})
    values, slopes = both(loss, [[-INF, -INF], [0.0, -1.0]], target * 2, dtype)
    assert np.isnan([values[0], *slopes[0]]).all()
    assert np.isfinite([values[1], *slopes[1]]).all()


def test_a_class_of_probability_0_that_is_not_asked_for_costs_nothing() -> None:
    for name in ("categorical_crossentropy", "categorical_focal_crossentropy"):
        values, slopes = both(make_loss(name, {"from_logits": True}), [[0.0, -INF]], [[1.0, 0.0]])
        assert (values, slopes) == ([0], [[0, 0]])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("from_logits", [False, True])
def test_focal_losses_of_certain_answers_are_finite(gamma: float, from_logits: bool) -> None:
    fields = {"gamma": gamma, "from_logits": from_logits}
    certain = [-800.0, 800.0] if from_logits else [0.0, 1.0]
    for name, target in (("binary", [[0.0, 1.0]]), ("categorical", [[0.0, 1.0]])):
        values, slopes = both(make_loss(f"{name}_focal_crossentropy", fields), [certain], target)
        assert values == pytest.approx([0], abs=2e-7)
        assert slopes == [pytest.approx([0, 0], abs=2e-6)]


def test_clipped_probabilities_have_no_slope() -> None:
    values, slopes = both(make_loss("binary_crossentropy", {}), [[0.0, 1.0, 1e-9]], [[1.0, 0.0, 1.0]])
    assert values == [pytest.approx(-math.log(1e-7), rel=1e-9)]
    assert slopes == [[0, 0, 0]]
    values, slopes = both(make_loss("kl_divergence", {}), [[1e-9, 2.0]], [[1.0, 0.0]])
    assert values == [pytest.approx(-math.log(1e-7), rel=1e-6)]
    assert slopes == [[0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_cosh_keeps_its_digits_near_0_and_does_not_overflow(dtype: Any) -> None:
    values, slopes = both(make_loss("log_cosh", {}), [[1e-4], [-1e-9], [5e4], [INF]], [[0.0]] * 4, dtype)
    expected = [0.5e-8, 0.5e-18, 5e4 - math.log(2), INF]
    assert values == pytest.approx(expected, rel=1e-6)
    assert slopes == [[pytest.approx(math.tanh(1e-4), rel=1e-6)], [pytest.approx(-1e-9)], [1], [1]]


def test_where_a_slope_jumps() -> None:
    assert both(make_loss("mean_absolute_error", {}), [[2.0]], [[2.0]])[1] == [[0]]
    assert both(make_loss("smooth_l1", {"beta": 0.0}), [[2.0]], [[2.0]])[1] == [[0]]
    assert both(make_loss("hinge", {}), [[1.0]], [[-1.0]])[1] == [[1]]
    assert both(make_loss("hinge", {"convert_labels": False}), [[1.0]], [[1.0]])[1] == [[0]]


@pytest.mark.parametrize(("beta", "dtype"), [(0.0, np.float64), (0.0, np.float32), (1e-50, np.float32)])
def test_a_beta_that_is_0_in_the_dtype_gives_the_absolute_error(beta: float, dtype: Any) -> None:
    """As PyTorch 2.13: smooth_l1_loss(..., beta=1e-50) of float32 has these values and slopes."""
    values, slopes = both(
        make_loss("smooth_l1", {"beta": beta}), [[0.0], [2.5], [-1.0], [1e-40]], [[0.0]] * 4, dtype
    )
    assert values == [0, 2.5, 1, float(dtype(1e-40))]
    assert slopes == [[0], [1], [-1], [1]]


def test_a_beta_below_every_error_keeps_its_slope() -> None:
    values, slopes = both(make_loss("smooth_l1", {"beta": 1e-50}), [[5e-51], [-2e-50]], [[0.0]] * 2)
    assert values == pytest.approx([1.25e-51, 1.5e-50], rel=1e-14, abs=0)
    assert slopes == [[pytest.approx(0.5, rel=1e-14)], [-1]]


@pytest.mark.parametrize("name", BOXES)
def test_an_epsilon_that_would_be_0_in_float32_is_refused(name: str) -> None:
    with pytest.raises(DomainError) as caught:
        make_loss(name, {"epsilon": 1e-50})
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "epsilon")
    point, far = np.zeros((1, 4), np.float32), np.array([[1, 1, 2, 2]], np.float32)
    loss = make_loss(name, {"epsilon": 1e-30})
    for p, y in ((point, point), (point, far), (far, point)):
        assert np.isfinite(loss.per_example(p, y)).all()
        assert np.isfinite(loss.gradient(p, y, Reduction.SUM)).all()


def test_labels_of_0_and_1_stand_for_signs_only_where_there_is_nothing_else() -> None:
    assert both(make_loss("hinge", {}), [[0.5, 0.5]], [[0.0, 1.0]])[0] == [1.0]
    assert both(make_loss("hinge", {"convert_labels": False}), [[0.5, 0.5]], [[0.0, 1.0]])[0] == [0.75]
    assert both(make_loss("hinge", {}), [[0.5, 0.5, 0.5]], [[0.0, 1.0, -1.0]])[0] == [1.0]


def test_equal_maxima_share_the_slope() -> None:
    assert both(make_loss("categorical_hinge", {}), [[1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]) == (
        [1],
        [[-1, 0.5, 0.5]],
    )


def test_a_vector_of_no_length_has_a_cosine_of_0() -> None:
    values, slopes = both(make_loss("cosine_similarity", {}), [[0.0, 0.0], [3e200, 4e200]], [[3.0, 4.0]] * 2)
    assert values == pytest.approx([0, -1])
    assert slopes[0] == pytest.approx([-6e6, -8e6])
    assert slopes[1] == pytest.approx([0, 0])


@pytest.mark.parametrize("name", BOXES)
def test_equal_boxes_lose_nothing(name: str) -> None:
    values, _ = both(make_loss(name, {}), [[1.0, 2.0, 3.0, 5.0]], [[1.0, 2.0, 3.0, 5.0]])
    assert values == pytest.approx([0], abs=1e-7)


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_without_extent_are_finite(name: str, dtype: Any) -> None:
    p = [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 4.0]]
    y = [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    values, slopes = both(make_loss(name, {}), p, y, dtype)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()


def test_boxes_apart_have_a_slope_except_under_the_plain_iou() -> None:
    p, y = [[0.0, 0.0, 1.0, 1.0]], [[3.0, 3.0, 5.0, 4.0]]
    moved = {name: both(make_loss(name, {}), p, y)[1][0] for name in BOXES}
    assert moved["iou"] == [0, 0, 0, 0]
    for name in BOXES[1:]:
        assert any(moved[name]), name


def test_the_gradient_of_ciou_takes_its_share_as_constant() -> None:
    """The frozen share times the derivative of v beside that of DIoU, not the value's derivative."""
    p, y = np.array([[0.0, 0.0, 4.0, 1.0]]), np.array([[1.0, 0.5, 2.0, 3.0]])
    ciou, diou, iou = (make_loss(name, {}) for name in ("ciou", "diou", "iou"))

    def unlike(p: Array) -> float:
        (w, h), (wanted, high) = ((b[0, 2] - b[0, 0], b[0, 3] - b[0, 1]) for b in (p, y))
        return float(4 / math.pi**2 * (math.atan(wanted / high) - math.atan(w / h)) ** 2)

    share = unlike(p) / (iou.per_example(p, y)[0] + unlike(p) + 1e-7)
    assert ciou.per_example(p, y) == pytest.approx(diou.per_example(p, y) + share * unlike(p))
    frozen = diou.gradient(p, y, Reduction.SUM) + share * numeric_gradient(unlike, p)
    assert ciou.gradient(p, y, Reduction.SUM) == pytest.approx(frozen, rel=1e-6)
    derivative = numeric_gradient(lambda p: ciou.per_example(p, y)[0], p)
    assert np.abs(ciou.gradient(p, y, Reduction.SUM) - derivative).max() > 0.01


def test_no_weight_at_all_is_no_loss() -> None:
    loss, p, y = make_loss("mean_absolute_error", {}), np.ones((2, 3)), np.zeros((2, 3))
    nothing, how = np.zeros(2), Reduction.MEAN_WITH_SAMPLE_WEIGHT
    assert reduce_losses(loss.per_example(p, y, nothing), how, loss.total_weight(y, nothing)) == 0
    assert not loss.gradient(p, y, how, nothing).any()


def test_indices_carry_the_weights_of_their_classes() -> None:
    loss = make_loss(
        "sparse_categorical_crossentropy", {"from_logits": True, "class_weights": (1.0, 0.0, 3.0)}
    )
    p, y, weights = np.zeros((3, 3)), np.array([0, 1, 2]), np.array([2.0, 5.0, 1.0])
    assert loss.total_weight(y, None) == 4
    assert loss.total_weight(y, weights) == 5
    each = loss.per_example(p, y, weights)
    assert each == pytest.approx(math.log(3) * np.array([2, 0, 3]))
    assert reduce_losses(each, Reduction.MEAN_WITH_SAMPLE_WEIGHT, 5.0) == pytest.approx(math.log(3))


def takes_its_own_shape(name: str) -> bool:
    """Whether the target is of the prediction's shape, and an example is the last axis."""
    apart = ("custom", "multilabel_margin")
    return name not in apart and not issubclass(
        REGISTRY[name], ClassIndexLoss | StackedLoss | OverlapLoss | CoupledLoss
    )


@pytest.mark.parametrize("name", sorted(filter(takes_its_own_shape, REGISTRY)))
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_no_examples_are_no_loss(name: str, shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    assert make_loss(name, {}).per_example(empty, empty).shape == shape[:-1]
    assert make_loss(name, {}).gradient(empty, empty, Reduction.SUM_OVER_BATCH_SIZE).shape == shape


P = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (np.zeros(3, np.float32), Reason.SHAPE_MISMATCH),
        (np.zeros((2, 1), np.float32), Reason.SHAPE_MISMATCH),
        (np.zeros(2), Reason.DTYPE_MISMATCH),
    ],
)
def test_sample_weights_that_do_not_fit_are_refused(weights: Array, reason: Reason) -> None:
    loss = make_loss("mean_absolute_error", {})
    for call in (loss.per_example, lambda p, y, w: loss.gradient(p, y, Reduction.SUM, w)):
        with pytest.raises(DomainError) as caught:
            call(P, P, weights)
        assert (caught.value.reason, caught.value.field) == (reason, "sample_weight")


@pytest.mark.parametrize("name", BOXES)
def test_boxes_have_four_edges(name: str) -> None:
    with pytest.raises(DomainError) as caught:
        make_loss(name, {}).per_example(P, P)
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_MISMATCH, "prediction")


@pytest.mark.parametrize(
    "name",
    ["categorical_crossentropy", "categorical_focal_crossentropy", "nll", "multi_margin",
     "multilabel_soft_margin"],
)  # fmt: skip
def test_class_weights_that_do_not_fit_are_refused(name: str) -> None:
    y = np.zeros(2, np.int64) if issubclass(REGISTRY[name], ClassIndexLoss) else P
    with pytest.raises(DomainError) as caught:
        make_loss(name, {"class_weights": (1.0, 1.0)}).per_example(P, y)
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_MISMATCH, "class_weights")
    for wrong in (-1.0, math.nan, INF):
        with pytest.raises(DomainError) as caught:
            make_loss(name, {"class_weights": (1.0, wrong)})
        assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "class_weights[1]")


def test_positive_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DomainError) as caught:
        make_loss("binary_crossentropy", {"positive_weights": (1.0, 1.0)}).per_example(P, P)
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_MISMATCH, "positive_weights")


@pytest.mark.parametrize("name", ["binary_crossentropy", "binary_focal_crossentropy", "cosine_similarity"])
def test_an_axis_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DomainError) as caught:
        make_loss(name, {"axis": 2}).per_example(P, P)
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "axis")
