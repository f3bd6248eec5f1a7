"""Softmax loss of a ranked list (ListNet: Cao et al., 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.losses.base import Floats, Loss
from optserve_server.losses.classification.crossentropy import (
    crossentropy_from_logits,
    crossentropy_from_logits_gradient,
)


@dataclass(frozen=True)
class RankingSoftmax(Loss):
    """-sum(y*log(softmax(p))) over the items of the last axis; the gradient is softmax(p)*sum(y) - y.

    Targets y are relevances, at least 0, times the items' weights if they have some. Items
    whose score is -infinity are left out; a list of such items alone counts as 0.
    """

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        held, relevance, empty = _without_left_out(prediction, target)
        return np.where(empty[..., 0], 0, crossentropy_from_logits(held, relevance, -1))

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        held, relevance, empty = _without_left_out(prediction, target)
        return np.where(empty, 0, crossentropy_from_logits_gradient(held, relevance, -1))


def _without_left_out(prediction: Floats, target: Floats) -> tuple[Floats, Floats, Any]:
    """Scores, relevances that are 0 where the score is -infinity, and which lists have no items."""
    out = prediction == -np.inf
    empty = np.all(out, axis=-1, keepdims=True)
    return np.where(empty, 0, prediction), np.where(out, 0, target), empty
