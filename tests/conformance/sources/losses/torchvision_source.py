"""The losses of boxes as torchvision publishes them, differentiated by PyTorch.

torchvision itself is not run: these are the formulas of its generalized_box_iou_loss,
distance_box_iou_loss and complete_box_iou_loss, written down once more. It has no loss for
the plain IoU: that is 1 - IoU with epsilon where the others have it. Its sigmoid_focal_loss
is here for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tests.conformance.oracle.losses import box_losses as oracle
from tests.conformance.oracle.losses import elementwise_losses
from tests.conformance.sources import functions
from tests.conformance.sources.losses import loss_run
from tests.conformance.sources.losses.loss_inputs import KINDS, Given
from tests.conformance.sources.row import Row

EPSILON = 1e-7
BATCH = "SUM_OVER_BATCH_SIZE"
Loss = Callable[[Any, Any, float], Any]


def areas(p: Any, y: Any) -> tuple[Any, Any]:
    """Intersection and union."""
    low, high = torch.max(p[..., :2], y[..., :2]), torch.min(p[..., 2:], y[..., 2:])
    meet = (high > low).all(-1)
    intersection = torch.where(meet, (high - low).prod(-1), torch.zeros_like(p[..., 0]))
    union = (p[..., 2:] - p[..., :2]).prod(-1) + (y[..., 2:] - y[..., :2]).prod(-1) - intersection
    return intersection, union


def iou_of(p: Any, y: Any, epsilon: float) -> Any:
    intersection, union = areas(p, y)
    return intersection / (union + epsilon)


def hull(p: Any, y: Any) -> Any:
    """Width and height of the smallest enclosing box."""
    return torch.max(p[..., 2:], y[..., 2:]) - torch.min(p[..., :2], y[..., :2])


def iou(p: Any, y: Any, epsilon: float) -> Any:
    return 1 - iou_of(p, y, epsilon)


def giou(p: Any, y: Any, epsilon: float) -> Any:
    _, union = areas(p, y)
    around = hull(p, y).prod(-1)
    return 1 - (iou_of(p, y, epsilon) - (around - union) / (around + epsilon))


def diou(p: Any, y: Any, epsilon: float) -> Any:
    diagonal = (hull(p, y) ** 2).sum(-1) + epsilon
    centres = ((p[..., :2] + p[..., 2:]) / 2 - (y[..., :2] + y[..., 2:]) / 2) ** 2
    return 1 - iou_of(p, y, epsilon) + centres.sum(-1) / diagonal


def ciou(p: Any, y: Any, epsilon: float) -> Any:
    (width, height), (wanted, high) = ((b[..., 2:] - b[..., :2]).unbind(-1) for b in (p, y))
    v = 4 / math.pi**2 * (torch.atan(wanted / high) - torch.atan(width / height)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou_of(p, y, epsilon) + v + epsilon)
    return diou(p, y, epsilon) + alpha * v


def boxes(file: str, case: str, loss: Loss, scalar: oracle.Boxes, given: Given, epsilon: float) -> Row:
    def each(p: Any, y: Any) -> Any:
        return loss(p, y, epsilon)

    def run() -> Mapping[str, Any]:
        return loss_run.pytorch(each, lambda p, y: each(p, y).mean(), given, BATCH)

    fields = {} if epsilon == EPSILON else {"epsilon": epsilon}
    line = oracle.line(scalar, epsilon)
    return functions.loss(file, case, "torchvision", "TORCH", BATCH, fields, given, run, line)


def focal() -> Row:
    """sigmoid_focal_loss with its own alpha and gamma."""
    given = KINDS["logits"]

    def each(z: Any, y: Any) -> Any:
        p, entropy = torch.sigmoid(z), F.binary_cross_entropy_with_logits(z, y, reduction="none")
        right = p * y + (1 - p) * (1 - y)
        return ((0.25 * y + 0.75 * (1 - y)) * entropy * (1 - right) ** 2).mean(-1)

    def run() -> Mapping[str, Any]:
        return loss_run.pytorch(each, lambda p, y: each(p, y).mean(), given, BATCH)

    line = elementwise_losses.average(elementwise_losses.binary_focal(True, alpha=0.25))
    return functions.loss("binary_focal_crossentropy", "torchvision", "torchvision", "TORCH", BATCH, {},
                          given, run, line)  # fmt: skip


def rows() -> list[Row]:
    """The cases of the boxes; the last pairs of the second kind are nested and stacked."""
    given = KINDS["boxes"]
    stacked = {name: [rows[:2], rows[2:4], rows[4:]] for name, rows in given.items()}
    found = [focal()]
    for file, loss, scalar in (
        ("iou", iou, oracle.iou), ("giou", giou, oracle.giou),
        ("diou", diou, oracle.diou), ("ciou", ciou, oracle.ciou),
    ):  # fmt: skip
        found += [
            boxes(file, "torchvision", loss, scalar, given, EPSILON),
            boxes(file, "torchvision_stacked_epsilon", loss, scalar, stacked, 0.25),
        ]
    return found
