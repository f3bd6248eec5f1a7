"""Hinge loss of the best class against the asked one (Crammer and Singer, 2001)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.margin.multiclass_scores import ScoreLoss


@dataclass(frozen=True)
class MulticlassHinge(ScoreLoss):
    """max(p + 1 - onehot(y)) - p[y] along the last axis; equal maxima share the gradient."""

    def _margin(self) -> float:
        return 1.0
