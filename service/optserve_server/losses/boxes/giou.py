"""Generalized IoU of boxes as a loss (Rezatofighi et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.base import Floats
from optserve_server.losses.boxes.box_loss import (
    BoxLoss,
    ValueAndGradient,
    enclosing_box_size,
    intersection_and_union,
    iou_loss,
)


@dataclass(frozen=True)
class GIoU(BoxLoss):
    """1 - IoU + (hull - union)/(hull + epsilon), where the hull is the smallest box around both."""

    def compute_with_gradient(self, p: Floats, y: Floats) -> ValueAndGradient:
        _, union = intersection_and_union(p, y)
        width, height = enclosing_box_size(p, y)
        around = width * height
        return iou_loss(p, y, self.epsilon) + (around - union).divide_by(around, self.epsilon)
