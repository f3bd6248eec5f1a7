"""Losses against class indices, in scalars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.conformance.oracle.losses.evaluation import Line


def nll(class_weights: Sequence[float] = ()) -> Line:
    def line(p: Sequence[float], y: int) -> tuple[float, list[float]]:
        w = class_weights[y] if class_weights else 1.0
        return -w * p[y], [-w if k == y else 0.0 for k in range(len(p))]

    return line


def multi_margin(degree: int = 1, margin: float = 1.0, class_weights: Sequence[float] = ()) -> Line:
    def line(p: Sequence[float], y: int) -> tuple[float, list[float]]:
        w = (class_weights[y] if class_weights else 1.0) / len(p)
        excess = [max(margin - p[y] + x, 0.0) if k != y else 0.0 for k, x in enumerate(p)]
        slopes = [w * degree * h ** (degree - 1) if h > 0 else 0.0 for h in excess]
        slopes[y] = -math.fsum(slopes)
        return w * math.fsum(h**degree for h in excess), slopes

    return line


def multilabel_margin(p: Sequence[float], y: Sequence[int]) -> tuple[float, list[float]]:
    asked = []
    for index in y:
        if index < 0:
            break
        asked.append(index)
    loss, slopes = [], [0.0] * len(p)
    for j in asked:
        for i in range(len(p)):
            if i not in asked and (h := 1 - p[j] + p[i]) > 0:
                loss.append(h / len(p))
                slopes[i] += 1 / len(p)
                slopes[j] -= 1 / len(p)
    return math.fsum(loss), slopes


def generalize_crossentropy(q: float = 0.5) -> Line:
    def line(p: Sequence[float], y: int) -> tuple[float, list[float]]:
        return (1 - p[y] ** q) / q, [-(p[y] ** (q - 1)) if k == y else 0.0 for k in range(len(p))]

    return line


def best_score(margin: float) -> Line:
    """The best score, others raised by the margin, without the asked one; one class is best."""

    def line(p: Sequence[float], y: int) -> tuple[float, list[float]]:
        raised = [x + margin * (k != y) for k, x in enumerate(p)]
        best = raised.index(max(raised))
        return raised[best] - p[y], [float(k == best) - float(k == y) for k in range(len(p))]

    return line
