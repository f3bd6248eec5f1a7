"""Distance IoU of boxes as a loss (Zheng et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.base import Floats
from optserve_server.losses.boxes.box_loss import BoxLoss, ValueAndGradient, diou_loss


@dataclass(frozen=True)
class DIoU(BoxLoss):
    """1 - IoU + d^2/(c^2 + epsilon): distance of the centres, diagonal of the box around both."""

    def compute_with_gradient(self, p: Floats, y: Floats) -> ValueAndGradient:
        return diou_loss(p, y, self.epsilon)
