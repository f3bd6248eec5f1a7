"""Optimizers that look at a whole tensor, here a list of parameters.

As in `optimizers`, but each function takes the parameters of one tensor, and for each step
their gradients and the learning rate; it returns the parameters after each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Vector = list[float]
Steps = Iterable[tuple[Sequence[float], float]]


def norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))


def trust_ratio(p: Sequence[float], u: Sequence[float], coefficient: float, epsilon: float) -> float:
    above, below = norm(p), norm(u)
    return 1.0 if above == 0 or below == 0 else coefficient * above / (below + epsilon)


def lamb(
    start: Sequence[float], steps: Steps, *, beta1: float, beta2: float, epsilon: float,
    weight_decay: float, outer_decay: float = 0.0, epsilon_root: float = 0.0,
) -> list[Vector]:  # fmt: skip
    p, m, v, path = list(start), [0.0] * len(start), [0.0] * len(start), []
    for t, (g, lr) in enumerate(steps, 1):
        p = [x - lr * outer_decay * x for x in p]
        m = [beta1 * a + (1 - beta1) * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + (1 - beta2) * b * b for a, b in zip(v, g, strict=True)]
        u = [
            a / (1 - beta1**t) / (math.sqrt(b / (1 - beta2**t) + epsilon_root) + epsilon) + weight_decay * x
            for a, b, x in zip(m, v, p, strict=True)
        ]
        ratio = trust_ratio(p, u, 1.0, 0.0)
        p = [x - lr * ratio * y for x, y in zip(p, u, strict=True)]
        path.append(p)
    return path


def lars(
    start: Sequence[float], steps: Steps, *, momentum: float, weight_decay: float,
    coefficient: float, epsilon: float, nesterov: bool,
) -> list[Vector]:  # fmt: skip
    p, trace, path = list(start), [0.0] * len(start), []
    for g, lr in steps:
        d = [a + weight_decay * x for a, x in zip(g, p, strict=True)]
        ratio = trust_ratio(p, d, coefficient, epsilon)
        moved = [-lr * ratio * a for a in d]
        trace = [momentum * a + b for a, b in zip(trace, moved, strict=True)]
        step = [b + momentum * a for a, b in zip(trace, moved, strict=True)] if nesterov else trace
        p = [x + y for x, y in zip(p, step, strict=True)]
        path.append(p)
    return path
