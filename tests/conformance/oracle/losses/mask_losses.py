"""Losses of masks, in scalars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.conformance.oracle.losses.evaluation import Line


def dice(epsilon: float = 1e-7) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        below = math.fsum(y) + math.fsum(p) + epsilon
        ratio = 2 * math.fsum(a * b for a, b in zip(p, y, strict=True)) / below
        return 1 - ratio, [(ratio - 2 * t) / below for t in y]

    return line


def tversky(alpha: float = 0.5, beta: float = 0.5, epsilon: float = 1e-7) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        overlap = math.fsum(a * b for a, b in zip(p, y, strict=True))
        missed = math.fsum((1 - a) * b for a, b in zip(p, y, strict=True))
        wrong = math.fsum(a * (1 - b) for a, b in zip(p, y, strict=True))
        below = overlap + alpha * missed + beta * wrong + epsilon
        slopes = [overlap * (t - alpha * t + beta * (1 - t)) / below**2 - t / below for t in y]
        return 1 - overlap / below, slopes

    return line
