"""Complete IoU of boxes as a loss (Zheng et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optserve_server.losses.base import Floats
from optserve_server.losses.boxes.box_loss import BoxLoss, ValueAndGradient, box_size, diou_loss, iou_loss


@dataclass(frozen=True)
class CIoU(BoxLoss):
    """The DIoU loss + a*v, where

    v = (4/pi^2)*(atan(w_y/h_y) - atan(w_p/h_p))^2      how unlike the shapes are
    a = v/(1 - IoU + v + epsilon)

    The gradient takes a as constant, as torchvision and the paper do: it is not the
    derivative of the value.
    """

    def compute_with_gradient(self, p: Floats, y: Floats) -> ValueAndGradient:
        unlike = _aspect_ratio_penalty(p, y)
        apart = iou_loss(p, y, self.epsilon).value
        share = unlike.value / (apart + unlike.value + self.epsilon)
        loss = diou_loss(p, y, self.epsilon)
        return ValueAndGradient(loss.value + share * unlike.value, loss.gradient + share * unlike.gradient)


def _aspect_ratio_penalty(p: Floats, y: Floats) -> ValueAndGradient:
    """(4/pi^2) times the squared difference of the diagonals' angles."""
    width, height = box_size(p)
    wanted = _aspect_angle(y[2] - y[0], y[3] - y[1])
    angle = _aspect_angle(width.value, height.value)
    squares = width.value * width.value + height.value * height.value
    # A box without extent has no angle, and none to turn.
    turn = np.where(squares > 0, height.value * width.gradient - width.value * height.gradient, 0)
    slope = np.divide(turn, squares, out=np.zeros_like(turn), where=squares > 0)
    scale = 4 / math.pi**2
    gap = angle - wanted
    return ValueAndGradient(scale * gap * gap, 2 * scale * gap * slope)


def _aspect_angle(width: Floats, height: Floats) -> Floats:
    """atan(width/height); 0 where both are 0."""
    flat = (width == 0) & (height == 0)
    angle: Floats = np.where(flat, 0, np.arctan(width / np.where(flat, 1, height)))
    return angle
