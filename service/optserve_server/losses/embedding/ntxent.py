"""Normalized temperature-scaled cross-entropy (Chen et al., 2020, arXiv:2002.05709)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.losses.base import Floats
from optserve_server.losses.coupled import CoupledLoss, log_sum_exp, matching_pairs, product


@dataclass(frozen=True)
class NTXent(CoupledLoss):
    """(n/pairs)*sum(log(exp(c_ij) + sum_k exp(c_ik)) - c_ij) over j for each example i, where

    c is the cosine divided by the temperature, j are the other examples of the same class, k
    those of other classes, and pairs is the number of all (i, j). So the mean of the n
    examples is the mean of the pairs, as in optax. 0 if there are none.
    """

    temperature: float = hyper(0.07, gt=0)

    def _example_losses(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        cosine, same, other = self._cosines_and_pairs(prediction, target)
        below = np.logaddexp(cosine, log_sum_exp(cosine, other)[:, None])
        terms = np.where(same, below - cosine, 0)
        return np.sum(terms, axis=1, dtype=np.float64) * self._pair_factor(same)

    def _compute_weighted_gradient(
        self, prediction: Floats, target: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> Any:
        cosine, same, other = self._cosines_and_pairs(prediction, target)
        below = np.logaddexp(cosine, log_sum_exp(cosine, other)[:, None])
        by_same = np.where(same, np.exp(cosine - below) - 1, 0)
        # Each pair moves every cosine with another class: exp(c_ik - below_ij), summed over j.
        most = np.max(np.where(same, -below, -np.inf), axis=1, initial=-np.inf)
        base = np.where(np.isfinite(most), most, 0)
        shares = np.sum(np.where(same, np.exp(-below - base[:, None]), 0), axis=1)
        by_other = np.where(other, np.exp(cosine + base[:, None]) * shares[:, None], 0)
        slope = (by_same + by_other) * (weights * self._pair_factor(same) / self.temperature)[:, None]
        unit, length = _normalize(prediction)
        moved = product(slope + slope.T, unit)
        along = np.sum(moved * unit, axis=1, keepdims=True)
        return (moved - unit * along) / length

    def _cosines_and_pairs(
        self, prediction: Floats, target: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        unit, _ = _normalize(prediction)
        same = matching_pairs(target)
        return product(unit, unit.T) / self.temperature, same & ~np.eye(len(same), dtype=bool), ~same

    def _pair_factor(self, same: npt.NDArray[np.bool_]) -> float:
        pairs = int(np.count_nonzero(same))
        return len(same) / pairs if pairs else 0.0


def _normalize(prediction: Floats) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Embeddings at length 1, and their lengths, of which squares below the dtype's epsilon count as it."""
    wide = np.asarray(prediction, np.float64)
    squares = np.sum(wide * wide, axis=1, keepdims=True)
    length = np.sqrt(np.maximum(squares, float(np.finfo(prediction.dtype).eps)))
    return wide / length, length
