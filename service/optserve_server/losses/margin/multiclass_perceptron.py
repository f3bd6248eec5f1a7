"""Perceptron loss of the best class against the asked one (Collins, 2002)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.losses.margin.multiclass_scores import ScoreLoss


@dataclass(frozen=True)
class MulticlassPerceptron(ScoreLoss):
    """max(p) - p[y] along the last axis; equal maxima share the gradient."""

    def _margin(self) -> float:
        return 0.0
