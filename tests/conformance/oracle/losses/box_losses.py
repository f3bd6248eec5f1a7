"""Losses of boxes, from torchvision's published formulas, differentiated in dual numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.conformance.oracle.losses.evaluation import Line


@dataclass(frozen=True)
class Dual:
    """A number and its derivatives with respect to the four predicted edges."""

    value: float
    slope: tuple[float, ...] = (0.0,) * 4

    def __add__(self, other: Dual | float) -> Dual:
        b = lift(other)
        return Dual(self.value + b.value, tuple(x + y for x, y in zip(self.slope, b.slope, strict=True)))

    def __mul__(self, other: Dual | float) -> Dual:
        b = lift(other)
        pairs = zip(self.slope, b.slope, strict=True)
        return Dual(self.value * b.value, tuple(x * b.value + self.value * y for x, y in pairs))

    def __sub__(self, other: Dual | float) -> Dual:
        return self + lift(other) * -1.0

    def __truediv__(self, other: Dual | float) -> Dual:
        b = lift(other)
        return self * Dual(1 / b.value, tuple(-x / b.value**2 for x in b.slope))

    def detach(self) -> Dual:
        """The same number, taken as constant."""
        return Dual(self.value)


def lift(x: Dual | float) -> Dual:
    return x if isinstance(x, Dual) else Dual(x)


def arctangent(x: Dual) -> Dual:
    return Dual(math.atan(x.value), tuple(s / (1 + x.value**2) for s in x.slope))


def extremum(a: Dual, b: float, better: Callable[[float, float], bool]) -> Dual:
    """The better of both; half of the derivative where they are equal, as in PyTorch."""
    if a.value == b:
        return Dual(b, tuple(s / 2 for s in a.slope))
    return a if better(a.value, b) else Dual(b)


def larger(a: Dual, b: float) -> Dual:
    return extremum(a, b, lambda x, y: x > y)


def smaller(a: Dual, b: float) -> Dual:
    return extremum(a, b, lambda x, y: x < y)


Edges = tuple[Dual, ...]


def overlap(p: Edges, y: Sequence[float]) -> tuple[Dual, Dual]:
    """Areas of the intersection and of the union."""
    width = smaller(p[2], y[2]) - larger(p[0], y[0])
    height = smaller(p[3], y[3]) - larger(p[1], y[1])
    meet = width.value > 0 and height.value > 0
    intersection = width * height if meet else Dual(0.0)
    area = (p[2] - p[0]) * (p[3] - p[1])
    return intersection, area + (y[2] - y[0]) * (y[3] - y[1]) - intersection


def iou(p: Edges, y: Sequence[float], epsilon: float) -> Dual:
    intersection, union = overlap(p, y)
    return lift(1.0) - intersection / (union + epsilon)


def giou(p: Edges, y: Sequence[float], epsilon: float) -> Dual:
    _, union = overlap(p, y)
    width = larger(p[2], y[2]) - smaller(p[0], y[0])
    height = larger(p[3], y[3]) - smaller(p[1], y[1])
    hull = width * height
    return iou(p, y, epsilon) + (hull - union) / (hull + epsilon)


def diou(p: Edges, y: Sequence[float], epsilon: float) -> Dual:
    width = larger(p[2], y[2]) - smaller(p[0], y[0])
    height = larger(p[3], y[3]) - smaller(p[1], y[1])
    across = (p[0] + p[2]) / 2.0 - (y[0] + y[2]) / 2
    down = (p[1] + p[3]) / 2.0 - (y[1] + y[3]) / 2
    diagonal = width * width + height * height + epsilon
    return iou(p, y, epsilon) + (across * across + down * down) / diagonal


def ciou(p: Edges, y: Sequence[float], epsilon: float) -> Dual:
    """The share of v is a constant to torchvision's gradient."""
    angle = arctangent((p[2] - p[0]) / (p[3] - p[1]))
    gap = angle - math.atan((y[2] - y[0]) / (y[3] - y[1]))
    v = gap * gap * (4 / math.pi**2)
    share = v.detach() / (iou(p, y, epsilon).detach() + v.detach() + epsilon)
    return diou(p, y, epsilon) + share * v


Boxes = Callable[[Edges, Sequence[float], float], Dual]


def line(loss: Boxes, epsilon: float = 1e-7) -> Line:
    """A loss of boxes as a line of four edges."""

    def of(p: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
        edges = tuple(Dual(x, tuple(float(i == k) for k in range(4))) for i, x in enumerate(p))
        found = loss(edges, y, epsilon)
        return found.value, list(found.slope)

    return of
