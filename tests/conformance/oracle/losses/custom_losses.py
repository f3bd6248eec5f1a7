"""The formulas that the corpus sends as expressions: value and derivative, in scalars, by hand."""

from __future__ import annotations

import math

from tests.conformance.oracle.losses.elementwise_losses import Element, sign


def yoghurt(cost: float, profit: float) -> Element:
    """The lecture's: a litre too many costs ``cost``, one too few loses ``profit``."""

    def element(p: float, y: float) -> tuple[float, float]:
        return (cost * (p - y), cost) if p > y else (profit * (y - p), -profit)

    return element


def quantile(q: float) -> Element:
    """maximum(q*(y - p), (q - 1)*(y - p)); half of each side where it bends."""

    def element(p: float, y: float) -> tuple[float, float]:
        slope = (1 - 2 * q) / 2 if p == y else 1 - q if p > y else -q
        return max(q * (y - p), (q - 1) * (y - p)), slope

    return element


def smooth(p: float, y: float) -> tuple[float, float]:
    """log1p((p - y)**2) + tanh(p/2)*exp(-y) - expm1(p/4)."""
    e, t = p - y, math.tanh(p / 2)
    value = math.log1p(e * e) + t * math.exp(-y) - math.expm1(p / 4)
    return value, 2 * e / (1 + e * e) + (1 - t * t) / 2 * math.exp(-y) - math.exp(p / 4) / 4


def rational(p: float, y: float) -> tuple[float, float]:
    """(y/(p**2 + 1))**3 - power(y**2 + p**2 + 1, -2) + 2**3*p/(y**2 + 1)."""
    s, r = y * y + p * p + 1, p * p + 1
    value = (y / r) ** 3 - s**-2 + 8 * p / (y * y + 1)
    return value, -6 * p * y**3 / r**4 + 4 * p / s**3 + 8 / (y * y + 1)


def root_far_errors(p: float, y: float) -> tuple[float, float]:
    """where(abs(p - y) <= 1, (p - y)**2, sqrt(abs(p - y))) + log(p**2 + 2)."""
    e = p - y
    outer = 2 * p / (p * p + 2)
    if abs(e) <= 1:
        return e * e + math.log(p * p + 2), 2 * e + outer
    return math.sqrt(abs(e)) + math.log(p * p + 2), sign(e) / 2 / math.sqrt(abs(e)) + outer


def clamp_and_weigh(p: float, y: float) -> tuple[float, float]:
    """minimum(maximum(p, -1), 1)*sign(y) where p differs from y, otherwise p**4."""
    if p == y:
        return p**4, 4 * p**3
    return min(max(p, -1.0), 1.0) * sign(y), sign(y) * (0.5 if abs(p) == 1 else float(abs(p) < 1))
