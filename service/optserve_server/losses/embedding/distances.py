"""Distances and cosines of pairs of vectors, with their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optserve_server.arrays.ops import NumpyOps
from optserve_server.losses.base import Floats
from optserve_server.losses.probabilities import power


@dataclass(frozen=True)
class PairValue:
    """A number for each pair of vectors.

    Attributes:
        value: [...].
        first: the gradient with respect to the first vectors, [..., n].
        second: the gradient with respect to the second ones.
    """

    value: Floats
    first: Floats
    second: Floats


def minkowski_distance(
    a: Floats, b: Floats, degree: float, epsilon: float, epsilon_in_sum: bool
) -> PairValue:
    """sum(|a - b + epsilon|^degree)^(1/degree), or (sum(|a - b|^degree) + epsilon)^(1/degree).

    The gradient is 0 where the distance is 0.
    """
    ops, error = NumpyOps(), a - b if epsilon_in_sum else a - b + a.dtype.type(epsilon)
    size = np.abs(error)
    total = np.sum(power(ops, size, degree), axis=-1, keepdims=True, dtype=np.float64)
    distance = np.asarray((total + epsilon if epsilon_in_sum else total) ** (1 / degree))
    rise = np.sign(error) * power(ops, size, degree - 1)
    slope = np.divide(
        rise, distance ** (degree - 1), out=np.zeros(a.shape), where=(distance > 0) & (size > 0)
    ).astype(a.dtype)
    return PairValue(distance[..., 0].astype(a.dtype), slope, -slope)


def cosine_from_squares(a: Floats, b: Floats, epsilon: float) -> PairValue:
    """sum(a*b)/sqrt((sum(a^2) + epsilon)*(sum(b^2) + epsilon)), PyTorch's in its embedding loss."""
    dot, first, second = _dot(a, b), _dot(a, a) + epsilon, _dot(b, b) + epsilon
    below = np.sqrt(first * second)
    return _with_gradients(a, b, dot / below, below, first, second)


def cosine_from_lengths(a: Floats, b: Floats, epsilon: float) -> PairValue:
    """sum(a*b)/(|a|*|b|), lengths below epsilon counting as epsilon."""
    dot = _dot(a, b)
    first, second = np.sqrt(_dot(a, a)), np.sqrt(_dot(b, b))
    below = np.maximum(first, epsilon) * np.maximum(second, epsilon)
    # Lengths that are held do not change with the vector.
    squares = (np.where(length < epsilon, np.inf, length * length) for length in (first, second))
    return _with_gradients(a, b, dot / below, below, *squares)


def _with_gradients(
    a: Floats, b: Floats, cosine: Floats, below: Floats, first: Floats, second: Floats
) -> PairValue:
    """b/below - a*cosine/first, and the same exchanged."""
    return PairValue(
        cosine[..., 0].astype(a.dtype),
        (b / below - a * (cosine / first)).astype(a.dtype),
        (a / below - b * (cosine / second)).astype(a.dtype),
    )


def _dot(a: Floats, b: Floats) -> Floats:
    """The sum of products over the last axis, which is kept, in float64."""
    total: Floats = np.sum(a * b, axis=-1, keepdims=True, dtype=np.float64)
    return total
