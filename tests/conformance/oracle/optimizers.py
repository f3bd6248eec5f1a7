"""Optimizers on one scalar parameter.

Each function takes the parameter, the gradients and learning rates of the steps and every
hyperparameter, and returns the parameter after each step. Nothing has a default: the case
states each number, so that no table of defaults is taken for granted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Steps = Iterable[tuple[float, float]]
"""Gradient and learning rate of each step."""


def sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def root(v: float, epsilon: float, placement: str, below: float = 0.0) -> float:
    return math.sqrt(v + below + epsilon) if placement == "INSIDE" else math.sqrt(v + below) + epsilon


def sgd(p: float, steps: Steps) -> list[float]:
    path = []
    for g, lr in steps:
        p -= lr * g
        path.append(p)
    return path


def momentum(p: float, steps: Steps, *, form: str, mu: float, dampening: float) -> list[float]:
    path, state = [], 0.0
    for t, (g, lr) in enumerate(steps, 1):
        if form == "CLASSICAL":
            state = mu * state - lr * g
            p += state
        elif form == "HEAVY_BALL":
            state = g if t == 1 else mu * state + (1 - dampening) * g
            p -= lr * state
        else:
            state = mu * state + (1 - mu) * g
            p -= lr * state
        path.append(p)
    return path


def nesterov(p: float, steps: Steps, *, form: str, mu: float) -> list[float]:
    path, state = [], 0.0
    for g, lr in steps:
        if form == "TORCH":
            state = mu * state + g
            p -= lr * (g + mu * state)
        elif form == "LOOKAHEAD_EMA":
            state = mu * state + (1 - mu) * g
            p -= lr * state
        else:
            state = mu * state - lr * g
            p += mu * state - lr * g if form == "KERAS" else state
        path.append(p)
    return path


def lookahead(p: float, steps: Steps, *, form: str, mu: float) -> list[float]:
    """The point at which each step's gradient is taken."""
    points, state = [], 0.0
    for g, lr in steps:
        if form == "LOOKAHEAD_EMA":
            points.append(p - lr * state)
            state = mu * state + (1 - mu) * g
            p -= lr * state
        else:
            points.append(p + mu * state)
            state = mu * state - lr * g
            p += state
    return points


def adagrad(
    p: float, steps: Steps, *, epsilon: float, placement: str, initial: float, decay: float
) -> list[float]:
    path, a = [], initial
    for t, (g, lr) in enumerate(steps, 1):
        a += g * g
        p -= lr / (1 + (t - 1) * decay) * g / root(a, epsilon, placement)
        path.append(p)
    return path


def rmsprop(
    p: float,
    steps: Steps,
    *,
    rho: float,
    mu: float,
    epsilon: float,
    placement: str,
    centered: bool,
    form: str,
) -> list[float]:
    path, v, mean, b = [], 0.0, 0.0, 0.0
    for g, lr in steps:
        v = rho * v + (1 - rho) * g * g
        mean = rho * mean + (1 - rho) * g
        direction = g / root(v - mean * mean if centered else v, epsilon, placement)
        if form == "CLASSICAL":
            b = mu * b + lr * direction
            p -= b
        else:
            b = mu * b + direction
            p -= lr * b
        path.append(p)
    return path


def adadelta(p: float, steps: Steps, *, rho: float, epsilon: float) -> list[float]:
    path, v, u = [], 0.0, 0.0
    for g, lr in steps:
        v = rho * v + (1 - rho) * g * g
        delta = math.sqrt(u + epsilon) / math.sqrt(v + epsilon) * g
        u = rho * u + (1 - rho) * delta * delta
        p -= lr * delta
        path.append(p)
    return path


def adam(
    p: float,
    steps: Steps,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    placement: str,
    correction: str,
    maximum: str = "",
    weight_decay: float = 0.0,
    epsilon_root: float = 0.0,
) -> list[float]:
    """Adam; AMSGrad where a maximum is named; AdamW where a decay is given."""
    path, m, v, highest = [], 0.0, 0.0, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        p -= lr * weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        # The lecture averages on from the maximum; the others keep an average beside it.
        v = beta2 * (highest if maximum == "UNCORRECTED" else v) + (1 - beta2) * g * g
        first, second = 1 - beta1**t, 1 - beta2**t
        if maximum == "CORRECTED":
            highest = max(highest, v / second)
            above, below = m / first, root(highest, epsilon, placement, epsilon_root)
        else:
            highest = max(highest, v) if maximum else v
            above, power = correct(m, highest, first, second, correction)
            below = root(power, epsilon, placement, epsilon_root)
        p -= lr * above / below
        path.append(p)
    return path


def correct(m: float, v: float, first: float, second: float, correction: str) -> tuple[float, float]:
    """Both moments of Adam's step, the learning rate aside."""
    if correction == "FOLDED":
        return math.sqrt(second) / first * m, v
    if correction == "HATTED":
        return m / first, v / second
    return m, v


def nadam(
    p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, form: str, psi: float,
    epsilon_root: float = 0.0,
) -> list[float]:  # fmt: skip
    path, m, v, product = [], 0.0, 0.0, 1.0
    for t, (g, lr) in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        if form == "SCHEDULED":
            mu = beta1 * (1 - 0.5 * 0.96 ** (t * psi))
            following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
            product *= mu
            m_hat = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        else:
            m_hat = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
        p -= lr * m_hat / (math.sqrt(v / (1 - beta2**t) + epsilon_root) + epsilon)
        path.append(p)
    return path


def adamax(p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, form: str) -> list[float]:
    path, m, u = [], 0.0, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * g
        if form == "DENOMINATOR":
            u = max(beta2 * u, abs(g))
            below = u + epsilon
        else:
            u = max(beta2 * u, abs(g) + epsilon)
            below = u
        p -= lr / (1 - beta1**t) * m / below
        path.append(p)
    return path


def rprop(
    p: float,
    steps: Steps,
    *,
    initial: float,
    eta_minus: float,
    eta_plus: float,
    smallest: float,
    largest: float,
) -> list[float]:
    path, size, previous = [], initial, 0.0
    for g, _ in steps:
        if g * previous > 0:
            size *= eta_plus
        elif g * previous < 0:
            size *= eta_minus
            g = 0.0
        size = min(max(size, smallest), largest)
        p -= size * sign(g)
        previous = g
        path.append(p)
    return path
