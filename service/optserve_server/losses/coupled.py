"""Base of losses whose examples are compared with each other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import Reason, mismatch_error
from optserve_server.losses.base import Floats, Loss, Reduction, check_allowed


@dataclass(frozen=True)
class CoupledLoss(Loss):
    """A loss of embeddings [n, d] with class indices [n], int32 or int64.

    An example's gradient has a share of every example's loss.
    """

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            actual = "[" + ",".join(map(str, shape)) + "]"
            raise mismatch_error(Reason.SHAPE_MISMATCH, "prediction", "[n,d]", actual)

    def _prepare_target(self, prediction: Floats, target: npt.NDArray[Any]) -> Any:
        check_allowed(Reason.DTYPE_MISMATCH, "target", target.dtype, (np.int32, np.int64))
        check_allowed(Reason.SHAPE_MISMATCH, "target", target.shape, (prediction.shape[:1],))
        return target

    def gradient(
        self,
        prediction: Floats,
        target: npt.NDArray[Any],
        reduction: Reduction,
        sample_weight: Floats | None = None,
    ) -> Floats:
        """The gradient of the weighted losses' reduction; see `Loss.gradient`."""
        y = self._check_and_prepare(prediction, target, sample_weight)
        each = np.ones(len(prediction)) if sample_weight is None else sample_weight
        ignored = self.find_ignored_examples(target)
        if ignored is not None:
            each = np.where(ignored, 0, each)
        factor = self._example_factor(prediction.shape, target, reduction, sample_weight)
        with np.errstate(all="ignore"):
            return np.asarray(self._compute_weighted_gradient(prediction, y, each * factor), prediction.dtype)

    def _sum_gradient(self, prediction: Floats, target: Any) -> Any:
        return self._compute_weighted_gradient(prediction, target, np.ones(len(prediction)))

    @abstractmethod
    def _compute_weighted_gradient(self, prediction: Floats, target: Any, weights: npt.NDArray[Any]) -> Any:
        """The gradient of the sum of losses times ``weights``, [n]."""


def matching_pairs(classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which pairs are of one class, [n, n]."""
    return np.asarray(classes[:, None] == classes[None, :])


def log_sum_exp(values: npt.NDArray[Any], taken: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """log(sum(exp(values))) over the taken ones of each row, in float64; -infinity if there are none."""
    held = np.where(taken, values, -np.inf)
    top = np.max(held, axis=1, initial=-np.inf)
    base = np.where(np.isfinite(top), top, 0)
    return np.asarray(base + np.log(np.sum(np.exp(held - base[:, None]), axis=1, dtype=np.float64)))


def product(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The matrix product in float64, summed in the same order on every machine."""
    wide = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.asarray(np.einsum("ij,jk->ik", *wide, optimize=False))
