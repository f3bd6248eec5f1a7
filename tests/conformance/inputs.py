"""What goes into the cases: small numbers, exact in every format down to bfloat16.

Gradients have both signs and one zero; learning rates rise and fall, so that conventions
which differ under a changing rate give different results; parameters stay away from zero, so that a
relative error means something.
"""

from __future__ import annotations

STEPS = 20
PARAMETERS = [1.5, -1.25, 2.0, -0.875, 0.75]
LEARNING_RATES = [0.03, 0.01, 0.02, 0.025, 0.005] + [0.0125, 0.0075, 0.015] * 5
EPSILON = 0.01
"""Large, so that it matters where it stands."""


def fractions(count: int, seed: int) -> list[float]:
    """``count`` multiples of 1/64 in [-1, 1] without 0, from a linear congruence."""
    state = seed
    drawn: list[float] = []
    while len(drawn) < count:
        state = (1664525 * state + 1013904223) % 2**32
        value = (state >> 16) % 129 - 64
        if value:
            drawn.append(value / 64)
    return drawn


def gradient_steps(steps: int = STEPS, size: int = len(PARAMETERS), seed: int = 7) -> list[list[float]]:
    """A gradient for each step; one element is zero half-way."""
    flat = fractions(steps * size, seed)
    rows = [flat[i * size : (i + 1) * size] for i in range(steps)]
    rows[steps // 2][-1] = 0.0
    return rows


def make_nested(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> list:  # type: ignore[type-arg]
    """Nested lists of `fractions` times ``scale``, a power of two."""
    if len(shape) == 1:
        return [scale * value for value in fractions(shape[0], seed)]
    return [make_nested(shape[1:], seed + 101 * row + 1, scale) for row in range(shape[0])]
