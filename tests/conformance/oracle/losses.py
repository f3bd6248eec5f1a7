"""Losses with their gradients, on nested lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.conformance.oracle.lines import flatten, lines, nest, shape_of, without

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP], as in Keras."""

Line = Callable[[Sequence[float], Any], tuple[float, list[float]]]
"""From one example's predictions and target to its loss and its gradient."""


def mean_squared_error(y: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
    n = len(y)
    errors = [a - b for a, b in zip(y, target, strict=True)]
    return sum(e * e for e in errors) / n, [2 * e / n for e in errors]


def crossentropy_of_logits(z: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
    top = max(z)
    log_sum = top + math.log(math.fsum(math.exp(x - top) for x in z))
    weight = math.fsum(target)
    loss = math.fsum(t * (log_sum - x) for x, t in zip(z, target, strict=True))
    return loss, [weight * math.exp(x - log_sum) - t for x, t in zip(z, target, strict=True)]


def crossentropy_of_probabilities(p: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
    total = math.fsum(p)
    q = [x / total for x in p]
    loss = -math.fsum(t * math.log(min(max(x, CLIP), 1 - CLIP)) for x, t in zip(q, target, strict=True))
    slopes = [-t / x if CLIP <= x <= 1 - CLIP else 0.0 for x, t in zip(q, target, strict=True)]
    mean = math.fsum(s * x for s, x in zip(slopes, q, strict=True))
    return loss, [(s - mean) / total for s in slopes]


def categorical(from_logits: bool, smoothing: float) -> Line:
    def line(y: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
        smooth = [t * (1 - smoothing) + smoothing / len(y) for t in target]
        return crossentropy_of_logits(y, smooth) if from_logits else crossentropy_of_probabilities(y, smooth)

    return line


def sparse(from_logits: bool) -> Line:
    def line(y: Sequence[float], target: int) -> tuple[float, list[float]]:
        one_hot = [float(k == target) for k in range(len(y))]
        return categorical(from_logits, 0.0)(y, one_hot)

    return line


def evaluate(line: Line, prediction: Any, target: Any, *, axis: int, reduction: str) -> dict[str, Any]:
    """Value, values per example and gradient of a loss along ``axis``."""
    shape = shape_of(prediction)
    flat, wanted = flatten(prediction), flatten(target)
    dense = len(wanted) == len(flat)
    per_example, gradient = [], [0.0] * len(flat)
    rows = lines(shape, axis)
    share = 1 / len(rows) if reduction == "SUM_OVER_BATCH_SIZE" else 1.0
    for i, row in enumerate(rows):
        loss, slopes = line([flat[k] for k in row], [wanted[k] for k in row] if dense else wanted[i])
        per_example.append(loss)
        for k, slope in zip(row, slopes, strict=True):
            gradient[k] = slope * share
    result = {"per_example": nest(per_example, without(shape, axis)), "gradient": nest(gradient, shape)}
    return result if reduction == "NONE" else {"value": math.fsum(per_example) * share, **result}
