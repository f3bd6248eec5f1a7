"""Reduce-on-plateau and early stopping, followed value by value.

Written as the frameworks' own loops are, each with its own bookkeeping, so that the service's
one rule with knobs is held against three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Answer = dict[str, Any]


def improves(mode: str, value: float, margin: float, best: float) -> bool:
    """Whether a value beats the best one by more than an absolute margin."""
    return value + margin < best if mode == "MIN" else value - margin > best


def improves_from_best(mode: str, value: float, margin: float, best: float) -> bool:
    """The same with the margin on the other side, which rounds otherwise."""
    return value < best - margin if mode == "MIN" else value > best + margin


def improves_by_share(mode: str, value: float, share: float, best: float) -> bool:
    """Whether a value beats the best one by more than a share of it."""
    return value < best * (1.0 - share) if mode == "MIN" else value > best * (1.0 + share)


def plateau_keras(
    values: Sequence[float], rate: float, *, mode: str = "MIN", factor: float = 0.1, patience: int = 10,
    threshold: float = 1e-4, cooldown: int = 0, min_learning_rate: float = 0.0,
) -> Answer:  # fmt: skip
    best: float | None = None
    wait = cooling = 0
    path = []
    for value in values:
        if cooling:
            cooling -= 1
            wait = 0
        if best is None or improves(mode, value, threshold, best):
            best, wait = value, 0
        elif not cooling:
            wait += 1
            if wait >= patience and rate > min_learning_rate:
                rate = max(rate * factor, min_learning_rate)
                wait, cooling = 0, cooldown
        path.append((rate, best, wait, cooling))
    return columns(path)


def plateau_torch(
    values: Sequence[float], rate: float, *, mode: str = "MIN", factor: float = 0.1, patience: int = 10,
    threshold: float = 1e-4, cooldown: int = 0, min_learning_rate: float = 0.0, min_change: float = 1e-8,
    absolute: bool = False, optax: bool = False,
) -> Answer:  # fmt: skip
    """optax is PyTorch with one bad value less."""
    beats = improves_from_best if absolute else improves_by_share
    best: float = math.inf if mode == "MIN" else -math.inf
    bad = cooling = 0
    path = []
    for value in values:
        if beats(mode, value, threshold, best):
            best, bad = value, 0
        else:
            bad += 1
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad > patience - optax:
            lower = max(rate * factor, min_learning_rate)
            rate = lower if rate - lower > min_change else rate
            bad, cooling = 0, cooldown
        path.append((rate, best, bad, cooling))
    return columns(path)


def columns(path: Sequence[tuple[float, float, int, int]]) -> Answer:
    names = ("learning_rates", "best_values", "waited", "cooldown")
    return dict(zip(names, map(list, zip(*path, strict=True)), strict=True))


def early_stopping(
    values: Sequence[float], *, mode: str = "MIN", patience: int = 0, min_delta: float = 0.0,
    baseline: float | None = None, restore_best: bool = False, start_from: int = 0,
) -> Answer:  # fmt: skip
    """The parameter is the number of the value that it was reported with, from 1."""
    best: float | None = None
    kept = wait = parameter = 0
    bests: list[float] = []
    waits: list[int] = []
    stopped = False
    for number, value in enumerate(values, 1):
        parameter = number
        if number > start_from:
            wait += 1
            if best is None or improves(mode, value, min_delta, best):
                best, kept = value, number
                if baseline is None or improves(mode, value, min_delta, baseline):
                    wait = 0
            elif wait >= patience and number > 1:
                stopped = True
        bests.append(0.0 if best is None else best)
        waits.append(wait)
        if stopped:
            break
    if stopped and restore_best:
        parameter = kept
    return {"best_values": bests, "waited": waits, "stopped": int(stopped), "parameter": float(parameter)}
