"""What both cross-entropies compute, against a distribution over classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.activations.base import check_axis
from optserve_server.activations.softmax import shifted, softmax
from optserve_server.hyper import hyper
from optserve_server.losses.base import Floats, Loss

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP], Keras' epsilon()."""


@dataclass(frozen=True)
class Crossentropy(Loss):
    """-sum(y*log(q)) along an axis, where q is

    softmax(prediction)          from logits  (PyTorch, whose classes are on axis 1; optax)
    prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)
    """

    from_logits: bool = hyper(False, torch=True, optax=True)
    axis: int = hyper(-1, torch=1)

    def check(self, rank: int) -> None:
        check_axis(self.axis, rank)

    @property
    def _axis(self) -> int:
        return self.axis

    def _values(self, prediction: Floats, target: Floats) -> Any:
        values = of_logits if self.from_logits else of_probabilities
        return values(prediction, target, self.axis)

    def _slope(self, prediction: Floats, target: Floats) -> Any:
        slope = of_logits_slope if self.from_logits else of_probabilities_slope
        return slope(prediction, target, self.axis)


def of_logits(logits: Floats, target: Floats, axis: int) -> Floats:
    """-sum(target*log(softmax(logits))) along ``axis``, by log-sum-exp."""
    below = shifted(logits, axis)
    log_total = np.log(_total(np.exp(below), axis)).astype(logits.dtype)
    # A class that is not asked for may have probability 0.
    terms = np.where(target == 0, 0, target * (below - log_total))
    return -_total(terms, axis).squeeze(axis)


def of_logits_slope(logits: Floats, target: Floats, axis: int) -> Floats:
    """softmax(logits)*sum(target) - target."""
    asked = _total(target, axis).astype(logits.dtype)
    return softmax(logits, axis) * asked - target


def of_probabilities(prediction: Floats, target: Floats, axis: int) -> Floats:
    """-sum(target*log(clip(q))) along ``axis``, where q = prediction/sum(prediction)."""
    q = prediction / _total(prediction, axis).astype(prediction.dtype)
    return -_total(target * np.log(np.clip(q, CLIP, 1 - CLIP)), axis).squeeze(axis)


def of_probabilities_slope(prediction: Floats, target: Floats, axis: int) -> Floats:
    """(a - sum(a*q))/sum(prediction), where a is -target/q and 0 where q is clipped."""
    total = _total(prediction, axis).astype(prediction.dtype)
    q = prediction / total
    clipped = (q < CLIP) | (q > 1 - CLIP)
    a = np.where(clipped, 0, -target / q)
    return (a - _total(a * q, axis).astype(prediction.dtype)) / total


def _total(x: Floats, axis: int) -> Floats:
    """The sum along ``axis``, which is kept, in float64."""
    total: Floats = np.sum(x, axis=axis, keepdims=True, dtype=np.float64)
    return total
