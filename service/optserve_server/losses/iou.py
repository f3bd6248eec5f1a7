"""Intersection over union of boxes as a loss."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.base import Floats
from optserve_server.losses.boxes import BoxLoss, Measure, iou_loss


@dataclass(frozen=True)
class IoU(BoxLoss):
    """1 - intersection/(union + epsilon). Boxes that do not meet have no gradient."""

    def measure(self, p: Floats, y: Floats) -> Measure:
        return iou_loss(p, y, self.epsilon)
