"""Losses over classes and vectors: value and gradient of one example, in scalars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.conformance.oracle.losses.evaluation import Line

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP], as in Keras."""


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


def categorical(from_logits: bool, smoothing: float, class_weights: Sequence[float] = ()) -> Line:
    def line(y: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
        smooth = smooth_labels(target, smoothing, class_weights)
        return crossentropy_of_logits(y, smooth) if from_logits else crossentropy_of_probabilities(y, smooth)

    return line


def smooth_labels(target: Sequence[float], smoothing: float, class_weights: Sequence[float]) -> list[float]:
    factors = class_weights or [1.0] * len(target)
    return [w * (t * (1 - smoothing) + smoothing / len(target)) for w, t in zip(factors, target, strict=True)]


def sparse(from_logits: bool, smoothing: float = 0.0, class_weights: Sequence[float] = ()) -> Line:
    def line(y: Sequence[float], target: int) -> tuple[float, list[float]]:
        one_hot = [float(k == target) for k in range(len(y))]
        return categorical(from_logits, smoothing, class_weights)(y, one_hot)

    return line


def categorical_focal(
    from_logits: bool,
    gamma: float = 2.0,
    alpha: float = 0.25,
    smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> Line:
    """The derivative of each term with respect to its own share, then through the shares."""

    def line(y: Sequence[float], target: Sequence[float]) -> tuple[float, list[float]]:
        top = max(y)
        raw = [math.exp(x - top) for x in y] if from_logits else list(y)
        total = math.fsum(raw)
        q = [x / total for x in raw]
        held = q if from_logits else [min(max(x, CLIP), 1 - CLIP) for x in q]
        weights = [alpha * t for t in smooth_labels(target, smoothing, class_weights)]
        loss = -math.fsum(w * (1 - c) ** gamma * math.log(c) for w, c in zip(weights, held, strict=True))
        slopes = [
            w * (gamma * (1 - c) ** (gamma - 1) * math.log(c) - (1 - c) ** gamma / c) if x == c else 0.0
            for w, c, x in zip(weights, held, q, strict=True)
        ]
        mean = math.fsum(s * x for s, x in zip(slopes, q, strict=True))
        factors = q if from_logits else [1 / total] * len(q)
        return loss, [f * (s - mean) for f, s in zip(factors, slopes, strict=True)]

    return line


def categorical_hinge(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
    others = [(1 - t) * x for x, t in zip(p, y, strict=True)]
    asked = math.fsum(t * x for x, t in zip(p, y, strict=True))
    margin = 1 + max(others) - asked
    if margin <= 0:
        return 0.0, [0.0] * len(p)
    ties = others.count(max(others))
    return margin, [(x == max(others)) * (1 - t) / ties - t for x, t in zip(others, y, strict=True)]


def cosine_similarity(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
    length = max(math.hypot(*p), CLIP)
    u, v = [x / length for x in p], [t / max(math.hypot(*y), CLIP) for t in y]
    cosine = math.fsum(a * b for a, b in zip(u, v, strict=True))
    along = cosine if math.hypot(*p) >= CLIP else 0.0
    return -cosine, [(along * a - b) / length for a, b in zip(u, v, strict=True)]


def fenchel_young(regularizer: str) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        if regularizer == "SHANNON":
            top = max(p)
            total = math.fsum(math.exp(x - top) for x in p)
            q, best = [math.exp(x - top) / total for x in p], top + math.log(total)
        elif regularizer == "GINI":
            falling = sorted(p, reverse=True)
            limit = max((math.fsum(falling[: k + 1]) - 1) / (k + 1) for k in range(len(p)))
            q = [max(x - limit, 0.0) for x in p]
            best = math.fsum(a * x + a * (1 - a) / 2 for a, x in zip(q, p, strict=True))
        else:
            q, best = [float(k == p.index(max(p))) for k in range(len(p))], max(p)
        loss = best - math.fsum(t * x for t, x in zip(y, p, strict=True))
        return loss, [a - t for a, t in zip(q, y, strict=True)]

    return line
