"""Optimizers that see a matrix, here a list of rows.

As in `optimizers`, but each function takes a whole tensor: the rows of a matrix, or a plain
list where the rule takes those too. It returns the tensor after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

Tensor = Any
"""A list of numbers, or a list of rows."""

Steps = Iterable[tuple[Tensor, float]]


def each(function: Callable[..., float], *tensors: Tensor) -> Tensor:
    """Applies a function to the elements of equally shaped tensors."""
    if isinstance(tensors[0], list):
        return [each(function, *rows) for rows in zip(*tensors, strict=True)]
    return function(*tensors)


def flat(x: Tensor) -> list[float]:
    return [y for row in x for y in flat(row)] if isinstance(x, list) else [x]


def rms(x: Tensor) -> float:
    values = flat(x)
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


def product(a: Tensor, b: Tensor) -> Tensor:
    columns = list(zip(*b, strict=True))
    return [[math.fsum(x * y for x, y in zip(row, c, strict=True)) for c in columns] for row in a]


def transpose(a: Tensor) -> Tensor:
    return [list(column) for column in zip(*a, strict=True)]


def norm(x: Tensor) -> float:
    return math.sqrt(math.fsum(value * value for value in flat(x)))


def orthogonalize(u: Tensor, iterations: int, divisor: float) -> Tensor:
    if len(u) > len(u[0]):
        return transpose(orthogonalize(transpose(u), iterations, divisor))
    x = each(lambda value: value / divisor, u)
    for _ in range(iterations):
        gram = product(x, transpose(x))
        mixed = each(lambda g, gg: -4.7750 * g + 2.0315 * gg, gram, product(gram, gram))
        x = each(lambda value, more: 3.4445 * value + more, x, product(mixed, x))
    return x


def muon(
    p: Tensor, steps: Steps, *, mu: float, nesterov: bool, iterations: int, epsilon: float,
    weight_decay: float, form: str = "TORCH", rms_rate: float = 0.0,
) -> list[Tensor]:  # fmt: skip
    """form is TORCH, KERAS, whose momentum sums gradients up, or OPTAX, which corrects its average."""
    m, path, rows, columns = each(lambda x: 0.0 * x, p), [], len(p), len(p[0])
    scale = {"TORCH": math.sqrt(max(1.0, rows / columns)), "KERAS": 1.0,
             "OPTAX": math.sqrt(max(1.0, columns / rows))}[form]  # fmt: skip
    if rms_rate:
        scale = rms_rate * math.sqrt(max(rows, columns))
    new = 1.0 if form == "KERAS" else 1 - mu
    for t, (g, lr) in enumerate(steps, 1):
        m = each(lambda a, b: mu * a + new * b, m, g)
        behind, here = (1 - mu ** (t + nesterov), 1 - mu**t) if form == "OPTAX" else (1.0, 1.0)
        if nesterov:
            u = each(lambda a, b, x=behind, y=here: mu * a / x + new * b / y, m, g)
        else:
            u = each(lambda a, x=behind: a / x, m)
        length = max(norm(u), epsilon) if form == "TORCH" else norm(u) + epsilon
        o = orthogonalize(u, iterations, length)
        p = each(lambda x, y, lr=lr: (1 - lr * weight_decay) * x - lr * scale * y, p, o)
        path.append(p)
    return path


def adafactor(
    p: Tensor, steps: Steps, *, beta2_decay: float, epsilon1: float, epsilon2: float,
    threshold: float, floored: bool, factored: bool = True, relative: bool = True,
) -> list[Tensor]:  # fmt: skip
    matrix = isinstance(p[0], list) and factored
    rows = [0.0] * len(p)
    columns = [0.0] * len(p[0]) if matrix else []
    v, path = each(lambda x: 0.0 * x, p), []
    added = 0.0 if floored else epsilon1
    least = epsilon1 * epsilon1 if floored else 0.0
    for t, (g, lr) in enumerate(steps, 1):
        share = t**beta2_decay
        squares = each(lambda x: x * x + added, g)
        if matrix:
            means = [math.fsum(row) / len(row) for row in squares]
            rows = [(1 - share) * r + share * s for r, s in zip(rows, means, strict=True)]
            means = [math.fsum(column) / len(column) for column in zip(*squares, strict=True)]
            columns = [(1 - share) * c + share * s for c, s in zip(columns, means, strict=True)]
            mean = math.fsum(rows) / len(rows)
            mean = max(mean, epsilon1) if floored else mean
            estimate = [[r * c / mean for c in columns] for r in rows]
        else:
            v = each(lambda a, b, share=share: (1 - share) * a + share * b, v, squares)
            estimate = v
        u = each(lambda x, y: x / math.sqrt(max(y, least)), g, estimate)
        length = max(1.0, rms(u) / threshold)
        size = max(epsilon2, rms(p)) * (min(lr, 1 / math.sqrt(t)) if relative else lr)
        p = each(lambda x, y, a=size / length: x - a * y, p, u)
        path.append(p)
    return path


def prodigy(
    start: list[float], steps: Steps, *, beta1: float, beta2: float, beta3: float, epsilon: float,
    first: float, coefficient: float, weight_decay: float, safeguard: bool,
) -> list[list[float]]:  # fmt: skip
    p, path = list(start), []
    m, v, s = ([0.0] * len(p) for _ in range(3))
    d, above = first, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        rate = d * lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        weight = d if safeguard else rate
        m = [beta1 * a + (1 - beta1) * d * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + (1 - beta2) * (d * b) ** 2 for a, b in zip(v, g, strict=True)]
        s = [beta3 * a + weight * d * b / first for a, b in zip(s, g, strict=True)]
        along = math.fsum(b * (x0 - x) for b, x0, x in zip(g, start, p, strict=True))
        above = beta3 * above + d / first * rate * along
        d = max(d, coefficient * above / math.fsum(map(abs, s)))
        p = [
            x - rate * (weight_decay * x + a / (math.sqrt(b) + d * epsilon))
            for x, a, b in zip(p, m, v, strict=True)
        ]
        path.append(p)
    return path
