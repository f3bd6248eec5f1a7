"""Intersection over union of boxes as a loss."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.base import Floats
from optserve_server.losses.boxes.box_loss import BoxLoss, ValueAndGradient, iou_loss


@dataclass(frozen=True)
class IoU(BoxLoss):
    """1 - intersection/(union + epsilon). Boxes that do not meet have no gradient."""

    def compute_with_gradient(self, p: Floats, y: Floats) -> ValueAndGradient:
        return iou_loss(p, y, self.epsilon)
