"""Losses within a batch, in scalars: gradients by the chain rule, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Rows = Sequence[Sequence[float]]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def collect(
    losses: Sequence[float], gradients: Sequence[list[list[float]]], reduction: str, counted: int
) -> dict[str, Any]:
    """The reduction of losses with the gradient of each with respect to all rows."""
    share = 1 / counted if reduction == "SUM_OVER_BATCH_SIZE" else 1.0
    n, d = len(losses), len(gradients[0][0])
    total = [[share * math.fsum(g[i][k] for g in gradients) for k in range(d)] for i in range(n)]
    result: dict[str, Any] = {"per_example": list(losses), "gradient": total}
    return result if reduction == "NONE" else {"value": math.fsum(losses) * share, **result}


def zeros(rows: Rows) -> list[list[float]]:
    return [[0.0] * len(row) for row in rows]


def circle(rows: Rows, classes: Sequence[int], reduction: str, gamma: float, margin: float) -> dict[str, Any]:
    losses, gradients = [], []
    for i, u in enumerate(rows):
        slopes = zeros(rows)
        distances = [max(1 - dot(u, v), 0.0) for v in rows]
        near = [j for j in range(len(rows)) if classes[j] == classes[i] and j != i]
        far = [j for j in range(len(rows)) if classes[j] != classes[i]]
        if not near or not far:
            losses.append(0.0)
            gradients.append(slopes)
            continue
        positive = {j: -gamma * (margin + distances[j]) * (margin - distances[j]) for j in near}
        negative = {j: gamma * max(1 + margin - distances[j], 0.0) * (1 - margin - distances[j]) for j in far}
        sums = log_sum_exp(list(positive.values())), log_sum_exp(list(negative.values()))
        total = sum(sums)
        losses.append(max(total, 0.0) + math.log1p(math.exp(-abs(total))))
        steep = 1 / (1 + math.exp(-total))
        for j in range(len(rows)):
            if j in positive:
                rise = math.exp(positive[j] - sums[0]) * 2 * gamma * distances[j]
            elif j in negative and distances[j] < 1 + margin:
                rise = math.exp(negative[j] - sums[1]) * 2 * gamma * (distances[j] - 1)
            else:
                continue
            for k in range(len(u)):
                slopes[i][k] -= steep * rise * rows[j][k]
                slopes[j][k] -= steep * rise * u[k]
        gradients.append(slopes)
    counted = sum(classes.count(c) > 1 and classes.count(c) < len(classes) for c in classes)
    return collect(losses, gradients, reduction, counted)


def ntxent(rows: Rows, classes: Sequence[int], reduction: str, temperature: float) -> dict[str, Any]:
    n = len(rows)
    lengths = [math.sqrt(dot(row, row)) for row in rows]
    unit = [[x / length for x in row] for row, length in zip(rows, lengths, strict=True)]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and classes[i] == classes[j]]
    losses, gradients = [0.0] * n, [zeros(rows) for _ in range(n)]
    for i, j in pairs:
        others = [k for k in range(n) if classes[k] != classes[i]]
        cosines = {k: dot(unit[i], unit[k]) / temperature for k in [j, *others]}
        below = log_sum_exp(list(cosines.values()))
        losses[i] += (below - cosines[j]) * n / len(pairs)
        for k, c in cosines.items():
            slope = (math.exp(c - below) - (k == j)) / temperature * n / len(pairs)
            for a, b in ((i, k), (k, i)):
                along = dot(unit[a], unit[b])
                for m in range(len(rows[a])):
                    gradients[i][a][m] += slope * (unit[b][m] - along * unit[a][m]) / lengths[a]
    return collect(losses, gradients, reduction, n)
