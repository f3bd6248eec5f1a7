"""Losses that are a function of each element and its target: value and derivative, in scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.conformance.oracle.losses.class_losses import CLIP
from tests.conformance.oracle.losses.evaluation import Line

Element = Callable[[float, float], tuple[float, float]]
"""From a prediction and its target to the value and the derivative."""


def average(element: Element) -> Line:
    """The mean along the axis."""
    return along(element, mean=True)


def sum_up(element: Element) -> Line:
    """The sum along the axis."""
    return along(element, mean=False)


def along(element: Element, *, mean: bool) -> Line:
    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        pairs = [element(a, b) for a, b in zip(p, y, strict=True)]
        n = len(pairs) if mean else 1
        return math.fsum(v for v, _ in pairs) / n, [d / n for _, d in pairs]

    return line


def sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0


def absolute(p: float, y: float) -> tuple[float, float]:
    return abs(p - y), sign(p - y)


def huber(delta: float) -> Element:
    def element(p: float, y: float) -> tuple[float, float]:
        e = p - y
        if abs(e) <= delta:
            return e * e / 2, e
        return delta * abs(e) - delta * delta / 2, delta * sign(e)

    return element


def smooth_l1(beta: float) -> Element:
    if not beta:
        return absolute

    def element(p: float, y: float) -> tuple[float, float]:
        value, slope = huber(beta)(p, y)
        return value / beta, slope / beta

    return element


def log_cosh(p: float, y: float) -> tuple[float, float]:
    return math.log(math.cosh(p - y)), math.tanh(p - y)


def square_logarithms(p: float, y: float) -> tuple[float, float]:
    e = math.log(max(p, CLIP) + 1) - math.log(max(y, CLIP) + 1)
    return e * e, 2 * e / (p + 1) if p >= CLIP else 0.0


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def percentage(p: float, y: float) -> tuple[float, float]:
    scale = 100 / max(abs(y), CLIP)
    return abs(p - y) * scale, sign(p - y) * scale


def soft_margin(p: float, y: float) -> tuple[float, float]:
    return softplus(-y * p), -y * logistic(-y * p)


def perceptron(p: float, y: float) -> tuple[float, float]:
    return max(-y * p, 0.0), -y if y * p < 0 else 0.0


def sparsemax(p: float, y: float) -> tuple[float, float]:
    z, sign_of_z = (-p, -1.0) if y else (p, 1.0)
    if abs(z) >= 1:
        return max(z, 0.0), sign_of_z * float(z > 0)
    return (z + 1) ** 2 / 4, sign_of_z * (z + 1) / 2


def hinge_embedding(margin: float) -> Element:
    def element(p: float, y: float) -> tuple[float, float]:
        if y == 1:
            return p, 1.0
        return (margin - p, -1.0) if p < margin else (0.0, 0.0)

    return element


def log_target_divergence(p: float, y: float) -> tuple[float, float]:
    return math.exp(y) * (y - p), -math.exp(y)


def weigh_places(element: Element, weights: Sequence[float]) -> Line:
    """The mean along the axis, each place times its weight."""

    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        found = [element(a, b) for a, b in zip(p, y, strict=True)]
        pairs = [(w * value, w * slope) for w, (value, slope) in zip(weights, found, strict=True)]
        return math.fsum(v for v, _ in pairs) / len(p), [d / len(p) for _, d in pairs]

    return line


def positive_by_place(weights: Sequence[float]) -> Line:
    """Binary cross-entropy of logits with a weight of positive targets for each place."""

    def line(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        pairs = [binary(True, positive=w)(a, b) for w, a, b in zip(weights, p, y, strict=True)]
        return math.fsum(v for v, _ in pairs) / len(p), [d / len(p) for _, d in pairs]

    return line


def binary(from_logits: bool, smoothing: float = 0.0, positive: float = 1.0) -> Element:
    def element(p: float, y: float) -> tuple[float, float]:
        y = y * (1 - smoothing) + smoothing / 2
        yes, no = positive * y, 1 - y
        if from_logits:
            return yes * softplus(-p) + no * softplus(p), no * logistic(p) - yes * logistic(-p)
        q = min(max(p, CLIP), 1 - CLIP)
        slope = no / (1 - p) - yes / p if p == q else 0.0
        return -yes * math.log(q) - no * math.log(1 - q), slope

    return element


def binary_focal(
    from_logits: bool, gamma: float = 2.0, alpha: float | None = None, smoothing: float = 0.0
) -> Element:
    def element(p: float, y: float) -> tuple[float, float]:
        y = y * (1 - smoothing) + smoothing / 2
        q, turn = (logistic(p), logistic(p) * logistic(-p)) if from_logits else (p, 1.0)
        entropy, slope = binary(from_logits)(p, y)
        wrong = y * (1 - q) + (1 - y) * q
        balance = 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
        value = balance * wrong**gamma * entropy
        if not gamma:
            return value, balance * slope
        rise = gamma * wrong ** (gamma - 1) * (1 - 2 * y) * turn * entropy
        return value, balance * (wrong**gamma * slope + rise)

    return element


def kl_divergence(log_prediction: bool) -> Element:
    def of_logarithms(p: float, y: float) -> tuple[float, float]:
        return (y * (math.log(y) - p) if y else 0.0), -y

    def of_probabilities(p: float, y: float) -> tuple[float, float]:
        q, t = min(max(p, CLIP), 1.0), min(max(y, CLIP), 1.0)
        return t * math.log(t / q), -t / p if p == q else 0.0

    return of_logarithms if log_prediction else of_probabilities


def poisson(log_prediction: bool, epsilon: float, full: bool = False) -> Element:
    def element(p: float, y: float) -> tuple[float, float]:
        more = y * math.log(y) - y + math.log(2 * math.pi * y) / 2 if full and y > 1 else 0.0
        if log_prediction:
            return math.exp(p) - y * p + more, math.exp(p) - y
        return p - y * math.log(p + epsilon) + more, 1 - y / (p + epsilon)

    return element


def hinge(p: float, y: float) -> tuple[float, float]:
    return max(1 - y * p, 0.0), -y if y * p < 1 else 0.0


def squared_hinge(p: float, y: float) -> tuple[float, float]:
    margin = max(1 - y * p, 0.0)
    return margin * margin, -2 * y * margin


def label(element: Element) -> Element:
    """With targets of 0 and 1 for -1 and 1."""
    return lambda p, y: element(p, 2 * y - 1)
