"""The optimizers that followed Adam, the federated ones and the schedule-free ones, on one
scalar parameter each, in the manner of `oracle/optimizers.py`.
"""

from __future__ import annotations

import math

from tests.conformance.oracle.optimizers import Steps, root, sign


def radam(
    p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, placement: str, correction: str,
    threshold: float = 5.0,
    at_threshold: bool = False,
    epsilon_root: float = 0.0,
) -> list[float]:  # fmt: skip
    path, m, v = [], 0.0, 0.0
    limit = 2 / (1 - beta2) - 1
    for t, (g, lr) in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        second = 1 - beta2**t
        length = limit - 2 * t * beta2**t / second
        step = lr * m / (1 - beta1**t)
        if length > threshold or (at_threshold and length == threshold):
            step *= math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
            if correction == "FOLDED":
                step *= math.sqrt(second) / root(v, epsilon, placement, epsilon_root)
            else:
                step /= root(v / second, epsilon, placement, epsilon_root)
        p -= step
        path.append(p)
    return path


def lion(p: float, steps: Steps, *, beta1: float, beta2: float, weight_decay: float = 0.0) -> list[float]:
    path, m = [], 0.0
    for g, lr in steps:
        p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)
        m = beta2 * m + (1 - beta2) * g
        path.append(p)
    return path


def yogi(
    p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, initial: float, placement: str,
    epsilon_root: float = 0.0,
) -> list[float]:  # fmt: skip
    path, m, v = [], initial, initial
    for t, (g, lr) in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * g
        v -= (1 - beta2) * sign(v - g * g) * g * g
        p -= lr * (m / (1 - beta1**t)) / root(v / (1 - beta2**t), epsilon, placement, epsilon_root)
        path.append(p)
    return path


def adabelief(
    p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, epsilon_root: float
) -> list[float]:
    path, m, s = [], 0.0, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + epsilon_root
        p -= lr * (m / (1 - beta1**t)) / (math.sqrt(s / (1 - beta2**t)) + epsilon)
        path.append(p)
    return path


def adan(
    p: float,
    steps: Steps,
    *,
    beta1: float,
    beta2: float,
    beta3: float,
    epsilon: float,
    epsilon_root: float,
) -> list[float]:
    path, m, c, n, before = [], 0.0, 0.0, 0.0, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        change = g - before if t > 1 else 0.0
        m = beta1 * m + (1 - beta1) * g
        c = beta2 * c + (1 - beta2) * change
        n = beta3 * n + (1 - beta3) * (g + (1 - beta2) * change) ** 2
        above = m / (1 - beta1**t) + (1 - beta2) * c / (1 - beta2**t)
        p -= lr * above / (math.sqrt(n / (1 - beta3**t) + epsilon_root) + epsilon)
        before = g
        path.append(p)
    return path


def adopt(
    p: float, steps: Steps, *, beta1: float, beta2: float, epsilon: float, clipped: bool = True
) -> list[float]:
    path, m, v = [], 0.0, 0.0
    for t, (g, lr) in enumerate(steps):
        if t == 0:
            v = g * g
        else:
            quotient = g / max(math.sqrt(v), epsilon)
            if clipped:
                quotient = max(-(t**0.25), min(t**0.25, quotient))
            m = beta1 * m + (1 - beta1) * quotient
            v = beta2 * v + (1 - beta2) * g * g
        p -= lr * m
        path.append(p)
    return path


def ftrl(
    p: float, steps: Steps, *, initial: float, l1: float = 0.0, l2: float = 0.0, shrinkage: float = 0.0,
    beta: float = 0.0,
) -> list[float]:  # fmt: skip
    path, n, z = [], initial, 0.0
    for g, lr in steps:
        sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / lr
        n += g * g
        z += g + 2 * shrinkage * p - sigma * p
        quadratic = (beta + math.sqrt(n)) / lr + 2 * l2
        p = 0.0 if abs(z) <= l1 else (sign(z) * l1 - z) / quadratic
        path.append(p)
    return path


def fed_adagrad(p: float, steps: Steps, *, beta1: float, tau: float, initial: float) -> list[float]:
    path, m, v = [], 0.0, initial
    for g, lr in steps:
        delta = -g
        m = beta1 * m + (1 - beta1) * delta
        v += delta**2
        p += lr * m / (math.sqrt(v) + tau)
        path.append(p)
    return path


def fed_adam(
    p: float, steps: Steps, *, beta1: float, beta2: float, tau: float, initial: float, yogi: bool = False,
    ahead: bool = False,
) -> list[float]:  # fmt: skip
    path, m, v = [], 0.0, initial
    for t, (g, lr) in enumerate(steps, 1):
        if ahead:
            lr *= math.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
        delta = -g
        m = beta1 * m + (1 - beta1) * delta
        if yogi:
            v -= (1 - beta2) * delta**2 * sign(v - delta**2)
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        p += lr * m / (math.sqrt(v) + tau)
        path.append(p)
    return path


def schedule_free(
    p: float, steps: Steps, *, beta1: float, power: float, weight_decay: float = 0.0,
    beta2: float | None = None, epsilon: float = 0.0, ahead: bool = False,
) -> list[float]:  # fmt: skip
    """x after each step, or with ``ahead`` the y at which each gradient is taken.

    Plain gradient descent without ``beta2``.
    """
    x = z = y = p
    xs, ys, total, largest, v = [], [], 0.0, 0.0, 0.0
    for t, (g, lr) in enumerate(steps, 1):
        ys.append(y)
        largest = max(largest, lr)
        total += largest**power
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * g * g
            g = g / (math.sqrt(v / (1 - beta2**t)) + epsilon)
        z -= lr * (g + weight_decay * y)
        share = largest**power / total
        x = (1 - share) * x + share * z
        y = (1 - beta1) * z + beta1 * x
        xs.append(x)
    return ys if ahead else xs
