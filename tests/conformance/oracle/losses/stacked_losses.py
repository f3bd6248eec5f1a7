"""Losses of several predictions of one example, in scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.conformance.oracle.losses.evaluation import Line

Pair = tuple[float, list[float], list[float]]
"""A distance and its gradients with respect to both vectors."""
Distance = Callable[[Sequence[float], Sequence[float]], Pair]


def halves(values: Sequence[float], parts: int = 2) -> list[Sequence[float]]:
    n = len(values) // parts
    return [values[i * n : (i + 1) * n] for i in range(parts)]


def gaussian_nll(full: bool = False, epsilon: float = 1e-6) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        mean, variance = halves(p)
        n, terms, by_mean, by_variance = len(mean), [], [], []
        for m, v, t in zip(mean, variance, y, strict=True):
            v = max(v, epsilon)
            more = math.log(2 * math.pi) if full else 0.0
            terms.append((math.log(v) + (m - t) ** 2 / v + more) / 2)
            by_mean.append((m - t) / v / n)
            by_variance.append((1 / v - (m - t) ** 2 / v**2) / 2 / n)
        return math.fsum(terms) / n, by_mean + by_variance

    return line


def margin_ranking(margin: float = 0.0) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        first, second = halves(p)
        excess = [margin - t * (a - b) for a, b, t in zip(first, second, y, strict=True)]
        slopes = [t / len(y) if h > 0 else 0.0 for h, t in zip(excess, y, strict=True)]
        return math.fsum(max(h, 0.0) for h in excess) / len(y), [-s for s in slopes] + slopes

    return line


def cosine(below: Callable[[float], float], held: Callable[[float], bool]) -> Distance:
    """The cosine with lengths that ``below`` makes of squares; ``held`` ones do not move."""

    def pair(a: Sequence[float], b: Sequence[float]) -> Pair:
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        squares = [math.fsum(x * x for x in vector) for vector in (a, b)]
        first, second = map(below, squares)
        value = dot / (first * second)
        along = [0.0 if held(s) else value / below(s) ** 2 for s in squares]
        return (
            value,
            [y / (first * second) - x * along[0] for x, y in zip(a, b, strict=True)],
            [x / (first * second) - y * along[1] for x, y in zip(a, b, strict=True)],
        )

    return pair


def cosine_embedding(margin: float = 0.0) -> Line:
    pair = cosine(lambda square: math.sqrt(square + 1e-12), lambda square: False)

    def line(p: Sequence[float], y: float) -> tuple[float, list[float]]:
        value, first, second = pair(*halves(p))
        if y == 1:
            return 1 - value, [-x for x in first + second]
        return (value - margin, first + second) if value > margin else (0.0, [0.0] * len(p))

    return line


def cosine_distance(epsilon: float) -> Distance:
    pair = cosine(lambda square: max(math.sqrt(square), epsilon), lambda square: math.sqrt(square) < epsilon)

    def distance(a: Sequence[float], b: Sequence[float]) -> Pair:
        value, first, second = pair(a, b)
        return 1 - value, [-x for x in first], [-x for x in second]

    return distance


def minkowski(degree: float = 2.0, epsilon: float = 1e-6, in_sum: bool = False) -> Distance:
    def distance(a: Sequence[float], b: Sequence[float]) -> Pair:
        errors = [x - y + (0.0 if in_sum else epsilon) for x, y in zip(a, b, strict=True)]
        total = math.fsum(abs(e) ** degree for e in errors) + (epsilon if in_sum else 0.0)
        value = total ** (1 / degree)
        slopes = [math.copysign(abs(e) ** (degree - 1), e) * value ** (1 - degree) for e in errors]
        return value, slopes, [-s for s in slopes]

    return distance


def triplet_margin(distance: Distance, margin: float = 1.0, swap: bool = False) -> Line:
    def line(p: Sequence[float], y: None) -> tuple[float, list[float]]:
        anchor, positive, negative = halves(p, 3)
        n = len(anchor)
        near, by_anchor, by_positive = distance(anchor, positive)
        far, start, end = distance(anchor, negative)
        starts_at = 0
        if swap:
            other, other_start, other_end = distance(positive, negative)
            if other < far:
                far, start, end, starts_at = other, other_start, other_end, 1
        if near - far + margin <= 0:
            return 0.0, [0.0] * len(p)
        slopes = [*by_anchor, *by_positive, *(-x for x in end)]
        for k in range(n):
            slopes[starts_at * n + k] -= start[k]
        return near - far + margin, slopes

    return line
