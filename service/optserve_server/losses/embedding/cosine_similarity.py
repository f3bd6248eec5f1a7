"""Cosine similarity as a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats, Loss

SHORTEST = 1e-7
"""Lengths below count as this, Keras' epsilon()."""


@dataclass(frozen=True)
class CosineSimilarity(Loss):
    """-sum(u*v) along an axis, where u = p/|p| and v = y/|y|: -1 where they point the same way.

    The gradient is (u*sum(u*v) - v)/|p|. Where |p| is held at 1e-7, it is -v/1e-7.
    """

    axis: int = hyper(-1)

    def _example_losses(self, prediction: Floats, target: Floats) -> Any:
        u, v = self._normalize_with_length(prediction)[0], self._normalize_with_length(target)[0]
        return -np.sum(u * v, axis=self.axis, dtype=np.float64)

    def _sum_gradient(self, prediction: Floats, target: Floats) -> Any:
        (u, length), (v, _) = self._normalize_with_length(prediction), self._normalize_with_length(target)
        cosine = np.sum(u * v, axis=self.axis, keepdims=True, dtype=np.float64).astype(u.dtype)
        along = np.where(length < SHORTEST, 0, u * cosine)
        return (along - v) / np.maximum(length, SHORTEST)

    def _normalize_with_length(self, x: Floats) -> tuple[Floats, Floats]:
        """``x`` at length 1, and its length, without overflow on the way."""
        top = np.max(np.abs(x), axis=self.axis, keepdims=True, initial=0)
        scaled = np.divide(x, top, out=np.zeros_like(x), where=top > 0)
        squares = np.sum(np.square(scaled), axis=self.axis, keepdims=True, dtype=np.float64)
        length: Floats = (top * np.sqrt(squares)).astype(x.dtype)
        return x / np.maximum(length, SHORTEST), length
