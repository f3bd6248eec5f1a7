"""Each convention's defaults of the losses: signatures of Keras 3.15, torch 2.13 and optax 0.2.8."""

from __future__ import annotations

import pytest

from optserve_server.hyperparameters import Convention
from optserve_server.losses import REGISTRY

K, T, X = Convention.KERAS, Convention.TORCH, Convention.OPTAX

DEFAULTS: list[tuple[str, Convention, dict[str, object]]] = [
    ("huber", K, {"delta": 1.0}),
    ("huber", T, {"delta": 1.0}),
    ("huber", X, {"delta": 1.0}),
    ("smooth_l1", T, {"beta": 1.0}),
    ("binary_crossentropy", K, {"from_logits": False, "label_smoothing": 0.0, "axis": -1}),
    # PyTorch has both forms; its own documentation recommends that with logits.
    ("binary_crossentropy", T, {"from_logits": True, "positive_weight": 1.0}),
    ("binary_crossentropy", X, {"from_logits": True}),
    ("binary_focal_crossentropy", K, {"from_logits": False, "gamma": 2.0, "alpha": 0.25}),
    ("binary_focal_crossentropy", K, {"apply_class_balancing": False, "label_smoothing": 0.0, "axis": -1}),
    # torchvision's sigmoid_focal_loss balances.
    ("binary_focal_crossentropy", T, {"apply_class_balancing": True, "alpha": 0.25, "gamma": 2.0}),
    ("binary_focal_crossentropy", T, {"from_logits": True}),
    ("binary_focal_crossentropy", X, {"apply_class_balancing": False, "gamma": 2.0, "from_logits": True}),
    ("categorical_focal_crossentropy", K, {"from_logits": False, "axis": -1, "label_smoothing": 0.0}),
    ("categorical_focal_crossentropy", K, {"alpha": 0.25, "gamma": 2.0, "class_weights": ()}),
    ("categorical_crossentropy", T, {"label_smoothing": 0.0, "class_weights": ()}),
    ("sparse_categorical_crossentropy", T, {"label_smoothing": 0.0, "class_weights": ()}),
    ("kl_divergence", K, {"log_prediction": False}),
    ("kl_divergence", T, {"log_prediction": True}),
    ("kl_divergence", X, {"log_prediction": True}),
    ("poisson", K, {"log_prediction": False, "epsilon": 1e-7, "full": False}),
    ("poisson", T, {"log_prediction": True, "epsilon": 1e-8, "full": False}),
    ("hinge", K, {"convert_labels": True}),
    ("hinge", X, {"convert_labels": False}),
    ("squared_hinge", K, {"convert_labels": True}),
    ("cosine_similarity", K, {"axis": -1}),
    ("cosine_similarity", X, {"axis": -1}),
    *[(name, T, {"epsilon": 1e-7}) for name in ("iou", "giou", "diou", "ciou")],
]


@pytest.mark.parametrize(("name", "convention", "expected"), DEFAULTS)
def test_defaults_are_those_of_the_framework(
    name: str, convention: Convention, expected: dict[str, object]
) -> None:
    loss = REGISTRY[name].resolve({}, convention)
    assert {field: getattr(loss, field) for field in expected} == expected
