"""Aggregation of contributions, in the order that they are given in.

Elements are added one contribution after the other in the parameter's element type, so that the
bits of a sum depend on that order alone. Formulas, for gradients g_i with weights n_i (1 if they are
not weighted), i from 1 to k:

    MEAN               sum(n_i*g_i)/sum(n_i)
    SUM                sum(n_i*g_i)
    COORDINATE_MEDIAN  of each element, the middle value, or the mean of the two middle ones
    TRIMMED_MEAN       of each element, the mean without the `trim` smallest and largest values
    NORM_BOUNDED_MEAN  MEAN of g_i*min(1, max_norm/|g_i|)

Median and trimmed mean: Yin et al., Byzantine-Robust Distributed Learning (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.spec.coordination import Aggregation, CoordinationSync
from optserve_server.state.staging import Staging

BLOCK = 1 << 15
"""Elements of a tensor that are sorted at a time: they and their copies are in the cache."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Weighted:
    """A gradient to be aggregated.

    Attributes:
        staging: the gradient; it has every tensor of the target.
        weight: its weight.
        loss_scale: by which it is to be divided.
    """

    staging: Staging
    weight: float
    loss_scale: float = 1.0


@np.errstate(all="ignore")  # what overflows becomes infinite, as in every kernel
def aggregate_contributions(
    contributions: Sequence[Weighted], target: Staging, spec: CoordinationSync
) -> None:
    """Writes the aggregate of contributions into ``target``, whose tensors have the parameters' types."""
    arrays = [_arrays_by_name(one.staging) for one in contributions]
    factors = [1.0] * len(arrays)
    if spec.aggregation is Aggregation.NORM_BOUNDED_MEAN and spec.max_norm is not None:
        bound = spec.max_norm
        norms = [_contribution_norm(one, given) for one, given in zip(contributions, arrays, strict=True)]
        factors = [1.0 if norm <= bound else bound / norm for norm in norms]
    weights = [one.weight if spec.weight_by_examples else 1.0 for one in contributions]
    scaled = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
    for tensor in target.tensors:
        result = target.array(tensor)
        gradients = [
            _remove_loss_scale(given[tensor.entry.name], one.loss_scale, result.dtype)
            for one, given in zip(contributions, arrays, strict=True)
        ]
        if spec.aggregation in (Aggregation.COORDINATE_MEDIAN, Aggregation.TRIMMED_MEAN):
            _compute_trimmed_mean(gradients, result, spec)
            continue
        for position, (gradient, weight) in enumerate(zip(gradients, scaled, strict=True)):
            add_weighted_gradient(result, gradient, weight, is_first=not position)
        if spec.aggregation is not Aggregation.SUM:
            np.divide(result, result.dtype.type(math.fsum(weights)), out=result)


@np.errstate(all="ignore")
def add_weighted_gradient(total: Array, gradient: Array, weight: float, *, is_first: bool) -> None:
    """Adds weight*gradient to a sum, in the sum's type; the first one takes its place."""
    term = gradient
    if weight != 1.0:
        term = gradient.astype(total.dtype, copy=False) * total.dtype.type(weight)
    if is_first:
        total[...] = term
    else:
        np.add(total, term, out=total, casting="same_kind", dtype=total.dtype)


def _arrays_by_name(staging: Staging) -> dict[str, Array]:
    return {tensor.entry.name: staging.array(tensor) for tensor in staging.tensors}


def _remove_loss_scale(gradient: Array, loss_scale: float, dtype: np.dtype[Any]) -> Array:
    """A gradient in the parameter's type, without its loss scale."""
    gradient = gradient.astype(dtype, copy=False)
    return gradient if loss_scale == 1.0 else gradient / dtype.type(loss_scale)


def _contribution_norm(one: Weighted, arrays: dict[str, Array]) -> float:
    """The joint Euclidean norm of a contribution, in float64."""
    squares = [float(np.sum(np.square(array.astype(np.float64)))) for array in arrays.values()]
    return math.sqrt(math.fsum(squares)) / abs(one.loss_scale)


def _compute_trimmed_mean(gradients: Sequence[Array], result: Array, spec: CoordinationSync) -> None:
    """The mean of the middle values of each element: a median if they are one or two."""
    count = len(gradients)
    most = (count - 1) // 2
    trimmed = most if spec.aggregation is Aggregation.COORDINATE_MEDIAN else min(spec.trim, most)
    for start in range(0, result.size, BLOCK):
        place = slice(start, min(start + BLOCK, result.size))
        values = np.sort(np.stack([gradient[place] for gradient in gradients]), axis=0)
        middle = values[trimmed : count - trimmed]
        total = middle[0].copy()
        for row in middle[1:]:
            total += row
        result[place] = total / result.dtype.type(len(middle))
