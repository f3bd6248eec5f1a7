"""Schedules: the learning rate of the update that follows ``step`` earlier ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence


def progress(step: int, decay_steps: float, staircase: bool) -> float:
    return math.floor(step / decay_steps) if staircase else step / decay_steps


def exponential(
    step: int,
    *,
    initial: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool,
    end: float | None = None,
) -> float:
    rate = initial * math.pow(decay_rate, progress(step, decay_steps, staircase))
    if end is None:
        return rate
    return max(rate, end) if decay_rate < 1 else min(rate, end)


def inverse_time(
    step: int, *, initial: float, decay_steps: float, decay_rate: float, staircase: bool
) -> float:
    return initial / (1 + decay_rate * progress(step, decay_steps, staircase))


def piecewise_constant(step: int, *, boundaries: Sequence[int], values: Sequence[float], side: str) -> float:
    passed = [step > b if side == "BEFORE" else step >= b for b in boundaries]
    return values[sum(passed)]


def constant(step: int, *, value: float) -> float:
    return value


def polynomial(
    step: int, *, initial: float, decay_steps: float, end: float, power: float, cycle: bool
) -> float:
    if cycle:
        fraction = step / (decay_steps * max(1, math.ceil(step / decay_steps)))
    else:
        fraction = min(step, decay_steps) / decay_steps
    return (initial - end) * math.pow(1 - fraction, power) + end


def cosine(
    step: int,
    *,
    initial: float,
    decay_steps: float,
    alpha: float,
    warmup: float = 0.0,
    target: float = 0.0,
    periodic: bool = False,
    exponent: float = 1.0,
) -> float:
    if step < warmup:
        return initial + (target - initial) * step / warmup
    gone = step - warmup
    gone = math.fmod(gone, 2 * decay_steps) if periodic else min(gone, decay_steps)
    part = math.pow(0.5 * (1 + math.cos(math.pi * gone / decay_steps)), exponent)
    return (target if warmup else initial) * ((1 - alpha) * part + alpha)


def cosine_restarts(
    step: int, *, initial: float, first: float, t_mul: float, m_mul: float, alpha: float
) -> float:
    length, height, place = first, 1.0, float(step)
    if t_mul == 1:
        height, place = m_mul ** (step // first), math.fmod(step, first)
    while place >= length:
        place -= length
        length *= t_mul
        height *= m_mul
    part = 0.5 * height * (1 + math.cos(math.pi * place / length))
    return initial * ((1 - alpha) * part + alpha)


def between(form: str, first: float, last: float, fraction: float) -> float:
    if form == "COSINE":
        return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2
    return first + (last - first) * (math.sqrt(fraction) if form == "SQUARE_ROOT" else fraction)


def one_cycle(
    step: int,
    *,
    top: float,
    total: int,
    pct_start: float,
    form: str,
    div: float,
    final_div: float,
    three: bool,
) -> float:
    first, lowest, risen = top / div, top / div / final_div, pct_start * total - 1
    if step <= risen:
        return between(form, first, top, step / risen)
    if three and step <= 2 * risen:
        return between(form, top, first, (step - risen) / risen)
    start, high = (2 * risen, first) if three else (risen, top)
    return between(form, high, lowest, min(1.0, (step - start) / (total - 1 - start)))


def count_cycle(
    step: int,
    *,
    top: float,
    total: int,
    linear: bool,
    pct_start: float,
    pct_final: float,
    div_factor: float,
    final_div_factor: float,
) -> float:
    first, lowest, risen = top / div_factor, top / div_factor / final_div_factor, int(pct_start * total)
    corners = [(0, first), (risen, top), (total, lowest)]
    if linear:
        corners.insert(2, (int(pct_final * total), first))
    for (start, a), (end, b) in itertools.pairwise(corners):
        if start <= step < end:
            return between("LINEAR" if linear else "COSINE", a, b, (step - start) / (end - start))
    return lowest


def step_decay(step: int, *, initial: float, size: int, gamma: float) -> float:
    return initial * math.pow(gamma, step // size)


def multi_step_decay(step: int, *, initial: float, milestones: Sequence[int], gamma: float) -> float:
    for milestone in milestones:
        initial *= gamma if step >= milestone else 1.0
    return initial


def noam(step: int, *, factor: float, width: float, warmup: float) -> float:
    """As the paper writes it, times a factor."""
    t = step + 1
    return factor * width**-0.5 * min(t**-0.5, t * warmup**-1.5)


def warmup_stable_decay(
    step: int, *, initial: float, peak: float, end: float, warmup: int, stable: int, decay: int, form: str
) -> float:
    if step < warmup:
        return initial + (peak - initial) * step / warmup
    if step < warmup + stable:
        return peak
    return between(form, peak, end, min(1.0, (step - warmup - stable) / decay))


Scalar = Callable[[int], float]


def warm_up(step: int, *, initial: float, warmup: int, then: Scalar) -> float:
    return initial + (then(0) - initial) * step / warmup if step < warmup else then(step - warmup)


def join(step: int, *, parts: Sequence[Scalar], boundaries: Sequence[int]) -> float:
    starts = [0, *boundaries]
    index = max(i for i, start in enumerate(starts) if step >= start)
    return parts[index](step - starts[index])


def legacy_decay(step: int, *, inner: Scalar, decay: float) -> float:
    return inner(step) / (1 + decay * step)


def cyclic(
    step: int, *, base: float, top: float, up: float, down: float, form: str, gamma: float = 1.0
) -> float:
    number, place = 0, float(step)
    while place >= up + down:
        number, place = number + 1, place - (up + down)
    part = place / up if place <= up else 1 - (place - up) / down
    height = {"TRIANGULAR": 1.0, "TRIANGULAR2": 0.5**number, "EXP_RANGE": gamma**step}[form]
    return base + (top - base) * part * height


def multiply(step: int, *, parts: Sequence[Scalar]) -> float:
    return math.prod(part(step) for part in parts)


def interpolate(step: int, *, boundaries: Sequence[int], values: Sequence[float], form: str) -> float:
    corners = list(zip([0, *boundaries], values, strict=True))
    for (start, a), (end, b) in itertools.pairwise(corners):
        if start <= step < end:
            return between(form, a, b, (step - start) / (end - start))
    return values[-1]
