"""Every loss with predictions and targets on which it is smooth, for properties that all share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optserve_server.hyperparameters import Convention
from optserve_server.losses import REGISTRY
from optserve_server.losses.base import Loss
from optserve_server.losses.class_indices import ClassIndexLoss
from optserve_server.losses.classification.fenchel_young import FenchelYoungRegularizer
from optserve_server.losses.embedding.triplet_margin import TripletDistance

Array = npt.NDArray[Any]
Drawn = tuple[Loss, Array, Array]

SHAPE = (3, 4)
FIELDS: dict[str, list[dict[str, object]]] = {
    "huber": [{}, {"delta": 0.5}],
    "smooth_l1": [{}, {"beta": 0.25}, {"beta": 0.0}],
    "binary_crossentropy": [
        {},
        {"label_smoothing": 0.2, "axis": 0},
        {"from_logits": True, "positive_weight": 3.0},
        {"positive_weights": (1.0, 0.5, 2.0, 4.0)},
    ],
    "binary_focal_crossentropy": [
        {},
        {"gamma": 0.5, "apply_class_balancing": True},
        {"gamma": 0.0, "label_smoothing": 0.3},
        {"from_logits": True, "gamma": 3.5, "axis": 0},
        {"from_logits": True, "gamma": 0.5, "alpha": 0.75, "apply_class_balancing": True},
    ],
    "categorical_crossentropy": [
        {},
        {"from_logits": True, "axis": 0, "class_weights": (1.0, 0.5, 2.0)},
        {"label_smoothing": 0.2, "class_weights": (1.0, 0.0, 3.0, 0.25)},
    ],
    "sparse_categorical_crossentropy": [
        {"label_smoothing": 0.2},
        {"from_logits": True, "class_weights": (1.0, 0.5, 2.0, 4.0)},
        {"axis": 0, "ignore_class": 1},
    ],
    "categorical_focal_crossentropy": [
        {},
        {"gamma": 0.5, "alpha": 1.0, "class_weights": (1.0, 0.5, 2.0, 4.0)},
        {"from_logits": True, "gamma": 0.5},
        {"from_logits": True, "gamma": 0.0, "axis": 0, "label_smoothing": 0.2},
    ],
    "kl_divergence": [{}, {"log_prediction": True}, {"log_prediction": True, "log_target": True}],
    "poisson": [{}, {"log_prediction": True, "full": True}],
    "hinge": [{"convert_labels": False}],
    "squared_hinge": [{"convert_labels": False}, {}],
    "cosine_similarity": [{}, {"axis": 0}],
    "iou": [{}, {"epsilon": 0.25}],
    "nll": [{}, {"axis": 0, "ignore_class": 1}, {"class_weights": (1.0, 0.5, 2.0, 4.0), "ignore_class": 2}],
    "gaussian_nll": [{}, {"full": True, "epsilon": 0.125}],
    "multi_margin": [{}, {"degree": 2, "margin": 0.5, "class_weights": (1.0, 0.5, 2.0, 4.0)}],
    "multilabel_soft_margin": [{}, {"class_weights": (1.0, 0.5, 2.0, 4.0)}],
    "triplet_margin": [
        {},
        {"swap": True, "margin": 2.0},
        {"degree": 3.5, "epsilon": 0.25},
        {"degree": 2.0, "epsilon": 0.25, "epsilon_in_sum": True},
        {"distance": TripletDistance.COSINE, "swap": True},
    ],
    "cosine_embedding": [{}, {"margin": 0.25}],
    "hinge_embedding": [{}, {"margin": 2.0}],
    "margin_ranking": [{}, {"margin": 0.5}],
    "generalized_crossentropy": [{}, {"q": 0.875}],
    "fenchel_young": [{"regularizer": r} for r in FenchelYoungRegularizer],
    "circle": [{"gamma": 2.0}, {"gamma": 4.0, "margin": 0.25, "remove_diagonal": False}],
    "ntxent": [{"temperature": 0.5}],
    "dice": [{}, {"axes": (1,)}, {"axes": (0,), "epsilon": 0.25}],
    "tversky": [{}, {"axes": (-1,), "alpha": 0.25, "beta": 1.5}],
}
"""What is asked of each loss; of those that are missing, nothing."""

CASES = [
    (name, fields) for name in REGISTRY if name not in ("custom", "ciou") for fields in FIELDS.get(name, [{}])
]
"""Custom formulas have tests of their own, and CIoU's gradient is not its value's derivative."""


def floats(low: float, high: float) -> st.SearchStrategy[Array]:
    return arrays(np.float64, SHAPE, elements=st.floats(low, high, width=32, allow_subnormal=False))


def distributions() -> st.SearchStrategy[Array]:
    return floats(0.0625, 1).map(lambda x: x / x.sum(-1, keepdims=True))


REAL, CHANCE, POSITIVE = floats(-4, 4), floats(0.0625, 0.9375), floats(0.125, 4)
SIGN = REAL.map(lambda x: np.where(x < 0, -1.0, 1.0))


@st.composite
def boxes(draw: st.DrawFn) -> Array:
    corner, extent = draw(floats(-2, 2)), draw(floats(0.25, 4))
    return np.concatenate([corner[:, :2], corner[:, :2] + extent[:, :2]], axis=-1)


INDICES = arrays(np.int64, SHAPE, elements=st.integers(0, 2))
LABEL_LISTS = arrays(np.int64, SHAPE, elements=st.integers(-1, 3))
PAIRS = REAL.map(lambda x: x.reshape(3, 2, 2))


def inputs(loss: Any) -> tuple[st.SearchStrategy[Array], st.SearchStrategy[Array]]:
    """What a loss takes as prediction and target."""
    name, logits = loss.name, getattr(loss, "from_logits", False)
    if isinstance(loss, ClassIndexLoss):
        shares = name in ("sparse_categorical_crossentropy", "generalized_crossentropy")
        predictions = CHANCE if shares and not logits else REAL
        return predictions, INDICES.map(lambda x: x[0] if getattr(loss, "axis", -1) == 0 else x[:, 0])
    if name.startswith("binary"):
        return REAL if logits else CHANCE, floats(0, 1)
    if name.startswith("categorical_") and name != "categorical_hinge":
        return REAL if logits else POSITIVE, distributions()
    if getattr(loss, "log_prediction", False):
        return REAL, floats(0, 4)
    special: dict[str, tuple[st.SearchStrategy[Array], st.SearchStrategy[Array]]] = {
        "kl_divergence": (CHANCE, CHANCE),
        "poisson": (POSITIVE, POSITIVE),
        "mean_squared_logarithmic_error": (POSITIVE, POSITIVE),
        "hinge": (REAL, SIGN),
        "squared_hinge": (REAL, SIGN),
        "categorical_hinge": (REAL, distributions()),
        "soft_margin": (REAL, SIGN),
        "perceptron": (REAL, SIGN),
        "hinge_embedding": (REAL, SIGN),
        "mean_absolute_percentage_error": (REAL, POSITIVE),
        "multilabel_margin": (REAL, LABEL_LISTS),
        "multilabel_soft_margin": (REAL, floats(0, 1)),
        "gaussian_nll": (PAIRS.map(with_variances), REAL.map(lambda x: x[:, :2])),
        "margin_ranking": (PAIRS, SIGN.map(lambda x: x[:, :2])),
        "cosine_embedding": (PAIRS, SIGN.map(lambda x: x[:, 0])),
        "triplet_margin": (REAL.map(lambda x: x.reshape(2, 3, 2)), st.just(np.zeros(0))),
        "sparsemax_loss": (REAL, floats(0, 1).map(np.round)),
        "fenchel_young": (REAL, distributions()),
        "ranking_softmax": (REAL, floats(0, 2)),
        "circle": (REAL.map(of_length_1), INDICES.map(lambda x: x[:, 0])),
        "ntxent": (REAL.map(lambda x: x + 8 * np.eye(3, 4)), INDICES.map(lambda x: x[:, 0])),
        "dice": (CHANCE, CHANCE),
        "tversky": (CHANCE, CHANCE),
    }
    return (boxes(), boxes()) if name in BOXES else special.get(name, (REAL, REAL))


def of_length_1(x: Array) -> Array:
    """Nearly, so that no distance of an embedding to itself is below 0."""
    moved = x + 8 * np.eye(3, 4)
    scaled: Array = 0.99 * moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return scaled


def with_variances(x: Array) -> Array:
    return np.stack([x[:, 0], np.abs(x[:, 1]) + 0.25], axis=1)


BOXES = ("iou", "giou", "diou", "ciou")
NEAR_A_KINK: dict[str, Callable[[Any, Array, Array], Array]] = {
    "mean_absolute_error": lambda _, p, y: p - y,
    "smooth_l1": lambda loss, p, y: np.abs(p - y) - loss.beta,
    "huber": lambda loss, p, y: np.abs(p - y) - loss.delta,
    "hinge": lambda _, p, y: 1 - y * p,
    "squared_hinge": lambda _, p, y: 1 - y * p,
    "cosine_similarity": lambda loss, p, _: np.linalg.norm(p, axis=loss.axis) / 100,
    "perceptron": lambda _, p, y: y * p,
    "hinge_embedding": lambda loss, p, _: loss.margin - p,
    "mean_absolute_percentage_error": lambda _, p, y: p - y,
    "multi_margin": lambda loss, p, y: other_classes(loss.margin - p[np.arange(3), y][:, None] + p, y),
    "multilabel_margin": lambda _, p, y: 1 - np.abs(p[:, :, None] - p[:, None, :]),
    "sparsemax_loss": lambda _, p, y: np.abs(p) - 1,
    "fenchel_young": lambda loss, p, _: near_simplex(loss, p),
    "multiclass_hinge": lambda _, p, y: lead(p + (np.arange(4) != y[:, None])),
    "multiclass_perceptron": lambda _, p, y: lead(p),
    "margin_ranking": lambda loss, p, y: loss.margin - y * (p[:, 0] - p[:, 1]),
    "cosine_embedding": lambda loss, p, _: np.append(
        cosine(p[:, 0], p[:, 1]) - loss.margin, np.linalg.norm(p, axis=-1) / 100
    ),
    "triplet_margin": lambda loss, p, y: near_triplets(loss, p),
}
"""What is 0 where the slope jumps, or nearly."""


def other_classes(values: Array, y: Array) -> Array:
    return values[np.arange(4) != y[:, None]]


def cosine(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        found: Array = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.nan_to_num(found)


def lead(scores: Array) -> Array:
    """How far the best is from the second."""
    falling = np.sort(scores, axis=-1)
    return falling[:, -1] - falling[:, -2]


def near_simplex(loss: Any, p: Array) -> Array:
    """What has a kink: nothing, the edge of the support, or the exchange of the best."""
    if loss.regularizer is FenchelYoungRegularizer.SHANNON:
        return np.ones(1)
    if loss.regularizer is FenchelYoungRegularizer.NONE:
        return lead(p)
    falling = -np.sort(-p, axis=-1)
    return p - ((np.cumsum(falling, axis=-1) - 1) / np.arange(1, 5)).max(axis=-1, keepdims=True)


def near_triplets(loss: Any, p: Array) -> Array:
    """Losses, differences of the distances that are exchanged, and what distances have kinks at."""
    anchor, positive, negative = p[:, 0], p[:, 1], p[:, 2]
    pairs = ((anchor, positive), (anchor, negative), (positive, negative))
    with np.errstate(all="ignore"):
        near, far, other = (loss._distance(a, b).value for a, b in pairs)
    kinks = [near - far + loss.margin, far - other, near - other + loss.margin]
    if loss.distance is TripletDistance.COSINE:
        kinks.append(np.linalg.norm(p, axis=-1) / 100)
    else:
        kinks += [(a - b + loss.epsilon * (not loss.epsilon_in_sum)) / 10 for a, b in pairs]
    return np.concatenate([kink.ravel() for kink in kinks])


def smooth(loss: Loss, p: Array, y: Array) -> bool:
    """Whether central differences can be trusted here."""
    if loss.name in BOXES:
        edges = np.concatenate([p - y, p - y[..., [2, 3, 0, 1]]])
        return bool(np.abs(edges).min() > 1e-3)
    if loss.name == "categorical_hinge":
        others = np.sort((1 - y) * p, -1)
        margin = 1 + others[:, -1] - (y * p).sum(-1)
        return bool(min((others[:, -1] - others[:, -2]).min(), np.abs(margin).min()) > 1e-3)
    kink = NEAR_A_KINK.get(loss.name)
    return kink is None or bool(np.abs(kink(loss, p, y)).min() > 1e-3)


def make_loss(name: str, fields: dict[str, object]) -> Loss:
    return REGISTRY[name].resolve(fields, Convention.KERAS)
