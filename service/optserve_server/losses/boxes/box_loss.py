"""Base of the losses of boxes: overlap, hull and distance, with their gradients.

Boxes are x1, y1, x2, y2 along the last axis. Everything here takes them with that axis
moved to the front, [4, ...], and returns gradients with respect to the predicted boxes in
the same form. Formulas and the places of epsilon are torchvision's.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason, mismatch_error
from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats, Loss


@dataclass(frozen=True)
class ValueAndGradient:
    """A number for each pair of boxes, and its gradient with respect to the predicted ones.

    Attributes:
        value: [...].
        slope: [4, ...].
    """

    value: Floats
    gradient: Floats

    def __add__(self, other: ValueAndGradient) -> ValueAndGradient:
        return ValueAndGradient(self.value + other.value, self.gradient + other.gradient)

    def __sub__(self, other: ValueAndGradient) -> ValueAndGradient:
        return ValueAndGradient(self.value - other.value, self.gradient - other.gradient)

    def __mul__(self, other: ValueAndGradient) -> ValueAndGradient:
        return ValueAndGradient(
            self.value * other.value, self.gradient * other.value + self.value * other.gradient
        )

    def divide_by(self, other: ValueAndGradient, epsilon: float) -> ValueAndGradient:
        """``self/(other + epsilon)``."""
        below = other.value + epsilon
        ratio = self.value / below
        return ValueAndGradient(ratio, (self.gradient - ratio * other.gradient) / below)


@dataclass(frozen=True)
class BoxLoss(Loss):
    """A loss of boxes, x1, y1, x2, y2 along the last axis, with x1 <= x2 and y1 <= y2.

    Where edges of both boxes coincide, the gradient is half of that on either side.
    """

    epsilon: float = hyper(1e-7, ge=1e-30)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Floats:
        if prediction.shape[-1] != 4:
            actual = "[" + ",".join(map(str, prediction.shape)) + "]"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "prediction", "boxes, [...,4]", actual)
        boxes: Floats = super()._prepare_target(prediction, target)
        return boxes

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        return self.compute_with_gradient(np.moveaxis(prediction, -1, 0), np.moveaxis(target, -1, 0)).value

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        slope = self.compute_with_gradient(
            np.moveaxis(prediction, -1, 0), np.moveaxis(target, -1, 0)
        ).gradient
        return np.moveaxis(slope, 0, -1)

    @abstractmethod
    def compute_with_gradient(self, p: Floats, y: Floats) -> ValueAndGradient:
        """The loss of predicted boxes ``p``, [4, ...], against ``y``."""


def box_edge(p: Floats, index: int) -> ValueAndGradient:
    """One of x1, y1, x2, y2."""
    slope = np.zeros_like(p)
    slope[index] = 1
    return ValueAndGradient(p[index], slope)


def box_size(p: Floats) -> tuple[ValueAndGradient, ValueAndGradient]:
    """Width and height."""
    return box_edge(p, 2) - box_edge(p, 0), box_edge(p, 3) - box_edge(p, 1)


def intersection_and_union(p: Floats, y: Floats) -> tuple[ValueAndGradient, ValueAndGradient]:
    """Areas of the intersection and of the union."""
    width = _smaller_edge(p, y, 2) - _larger_edge(p, y, 0)
    height = _smaller_edge(p, y, 3) - _larger_edge(p, y, 1)
    meet = (width.value > 0) & (height.value > 0)
    area = width * height
    intersection = ValueAndGradient(np.where(meet, area.value, 0), np.where(meet, area.gradient, 0))
    w, h = box_size(p)
    both = w * h
    union = ValueAndGradient(both.value + (y[2] - y[0]) * (y[3] - y[1]), both.gradient) - intersection
    return intersection, union


def enclosing_box_size(p: Floats, y: Floats) -> tuple[ValueAndGradient, ValueAndGradient]:
    """Width and height of the smallest box around both."""
    return _larger_edge(p, y, 2) - _smaller_edge(p, y, 0), _larger_edge(p, y, 3) - _smaller_edge(p, y, 1)


def iou_loss(p: Floats, y: Floats, epsilon: float) -> ValueAndGradient:
    """1 - intersection/(union + epsilon)."""
    intersection, union = intersection_and_union(p, y)
    iou = intersection.divide_by(union, epsilon)
    return ValueAndGradient(1 - iou.value, -iou.gradient)


def diou_loss(p: Floats, y: Floats, epsilon: float) -> ValueAndGradient:
    """The IoU loss + d^2/(c^2 + epsilon): distance of the centres, diagonal of the hull."""
    width, height = enclosing_box_size(p, y)
    across, down = _center_distance(p, y, 0), _center_distance(p, y, 1)
    far = (across * across + down * down).divide_by(width * width + height * height, epsilon)
    return iou_loss(p, y, epsilon) + far


def _center_distance(p: Floats, y: Floats, axis: int) -> ValueAndGradient:
    middle = box_edge(p, axis) + box_edge(p, axis + 2)
    return ValueAndGradient((middle.value - y[axis] - y[axis + 2]) / 2, middle.gradient / 2)


def _larger_edge(p: Floats, y: Floats, index: int) -> ValueAndGradient:
    """The larger of both edges."""
    return ValueAndGradient(np.maximum(p[index], y[index]), _extremum_gradient(p, index, p[index] - y[index]))


def _smaller_edge(p: Floats, y: Floats, index: int) -> ValueAndGradient:
    """The smaller of both edges."""
    return ValueAndGradient(np.minimum(p[index], y[index]), _extremum_gradient(p, index, y[index] - p[index]))


def _extremum_gradient(p: Floats, index: int, lead: Floats) -> Floats:
    """The slope of an extremum of two: 1 where the predicted edge leads, half where both do."""
    slope = np.zeros_like(p)
    slope[index] = (1 + np.sign(lead)) / 2
    return slope
