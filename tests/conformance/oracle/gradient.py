"""What happens to a gradient between its arrival and the rule, over several tensors.

A step runs, in this order: accumulate, add the regularisation gradients, clip, decay the
weights, gradient descent with momentum (classical where the rate is kept in the velocity,
otherwise heavy ball), average the weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

Tensors = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Clip:
    """kind is by_value (low, high), by_tensor_norm or by_global_norm (norm, epsilon)."""

    kind: str
    first: float
    second: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a case may state; a group's entries are by tensor name."""

    rates: Sequence[float]
    momentum: float = 0.0
    rate_in_velocity: bool = False
    accumulation: int = 1
    l1: float = 0.0
    l2: float = 0.0
    clip: Clip | None = None
    decay: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rate_factor: Mapping[str, float] = dataclasses.field(default_factory=dict)
    average: float | None = None
    average_start: str = "COPY"
    average_every_call: bool = False


def norm(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(x * x for x in values))


def factor(length: float, largest: float, epsilon: float) -> float:
    return min(1.0, largest / (length + epsilon))


def clip(gradient: Tensors, clip: Clip | None) -> Tensors:
    if clip is None:
        return gradient
    if clip.kind == "by_value":
        return {n: [min(max(x, clip.first), clip.second) for x in g] for n, g in gradient.items()}
    joint = norm([x for g in gradient.values() for x in g])
    scale = {
        n: factor(joint if clip.kind == "by_global_norm" else norm(g), clip.first, clip.second)
        for n, g in gradient.items()
    }
    return {n: [x * scale[n] for x in g] for n, g in gradient.items()}


def regularize(gradient: Tensors, parameters: Tensors, s: Settings) -> Tensors:
    return {
        n: [x + s.l1 * math.copysign(1.0, p) + s.l2 * p for x, p in zip(g, parameters[n], strict=True)]
        for n, g in gradient.items()
    }


def trajectory(
    parameters: Tensors, gradients: Sequence[Tensors], s: Settings
) -> list[tuple[Tensors, Tensors]]:
    """Parameters and their average after each call."""
    p = {n: list(values) for n, values in parameters.items()}
    velocity = {n: [0.0] * len(values) for n, values in p.items()}
    average = {n: list(values) for n, values in p.items()}
    path, waiting, step = [], [], 0
    for gradient in gradients:
        waiting.append(gradient)
        if len(waiting) == s.accumulation:
            mean = {
                n: [sum(x) / s.accumulation for x in zip(*(w[n] for w in waiting), strict=True)] for n in p
            }
            g = clip(regularize(mean, p, s), s.clip)
            for n in p:
                lr = s.rates[step] * s.rate_factor.get(n, 1.0)
                keep = 1 - lr * s.decay.get(n, 0.0)
                inside, outside = (lr, 1.0) if s.rate_in_velocity else (1.0, lr)
                velocity[n] = [s.momentum * v + inside * x for v, x in zip(velocity[n], g[n], strict=True)]
                p[n] = [keep * x - outside * v for x, v in zip(p[n], velocity[n], strict=True)]
            waiting, step = [], step + 1
        if s.average is not None and (not waiting or (s.average_every_call and step)):
            average = move_average(average, p, first=step == 1 and not waiting, s=s)
        bias = (
            1 - s.average**step if s.average is not None and s.average_start == "DEBIASED" and step else 1.0
        )
        shown = {n: [x / bias for x in v] for n, v in average.items()} if step else p
        path.append(({n: list(v) for n, v in p.items()}, {n: list(v) for n, v in shown.items()}))
    return path


def move_average(average: Tensors, p: Tensors, *, first: bool, s: Settings) -> Tensors:
    """One movement of the average; what starts at zero forgets what stood there."""
    if first and s.average_start == "COPY":
        return {n: list(values) for n, values in p.items()}
    assert s.average is not None
    beta = 0.0 if first else s.average
    return {
        n: [beta * a + (1 - s.average) * x for a, x in zip(average[n], values, strict=True)]
        for n, values in p.items()
    }
